"""Code in the README and on pages of the documentation runs as it stands, from top to bottom."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import types
from importlib.util import find_spec

import pytest

from fresh_clone import ROOT, blocks, needed, program
from pyro_pcflow import cli


# Models of five steps complete nothing well, and say so.
@pytest.mark.filterwarnings("ignore:what was found may be wrong")
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/index.md",
        "docs/inference.md",
        "docs/is-my-posterior-right.md",
        "docs/many-shapes.md",
        "docs/what-fit-needs.md",
        "docs/reference/metrics.md",
    ],
)
def test_code_blocks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [text for language, text in blocks(name) if language == "python"]
    assert found
    names = {}
    for block in found:
        # The same training, shorter.
        exec(compile(block.replace("max_seconds=20", "max_steps=5"), name, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=lambda page: page.stem)
def test_how_to_pages_run(page, tmp_path, monkeypatch):
    """Blocks of Python in one module, and the commands between them, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # A module that can be imported, for a class that is pickled.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    # So can the files that a page has written.
    monkeypatch.syspath_prepend(tmp_path)
    known = {*sys.modules}
    found = blocks(str(page.relative_to(ROOT)))
    assert found
    for language, block in found:
        package = needed(block)
        if package is not None and find_spec(package) is None:
            continue
        if language == "python":
            exec(compile(block.replace("max_seconds=20", "max_steps=5"), page.name, "exec"), module.__dict__)
            continue
        if language != "sh":
            (tmp_path / language).write_text(block)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "cat":
                assert [(tmp_path / name).is_file() for name in arguments] == [True]
            else:
                assert (program, cli.main(arguments)) == ("pcflow", 0)
    for name in {*sys.modules} - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_block_is_left_out_by_the_packages_of_the_python_that_runs_it(tmp_path):
    """A fresh clone may have other packages than the Python that tries it."""
    (tmp_path / "only_there.py").write_text("found = True\n")
    parts = [
        ("python", "# needs only_there\nfrom only_there import found"),
        ("python", "# needs nowhere\nimport nowhere"),
        ("python", "print(found)"),
    ]
    command = [sys.executable, "-c", program(parts)]
    ran = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert ran.stdout == "True\n"


@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))])
def test_every_command_is_one_that_the_parser_takes(page):
    for language, block in blocks(page):
        for line in block.replace("\\\n", "").splitlines() if language == "sh" else ():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "pcflow":
                assert callable(cli.make_parser(arguments).parse_args(arguments).command), line


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)  # code has brackets of its own
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
