"""Tutorials run, keep their promises, and their pages say what they say."""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import os
import re
import runpy

import pyro
import pytest
from matplotlib import pyplot

pytest.importorskip("jupytext", reason="the extra `docs` is not installed")

from tutorials import build

TUTORIALS = build.tutorials()
each = pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
# Those that take no more than a few seconds stay; the calls of the others are still compared with what is called.
SHORT = ("1_a_cow_out_of_noise", "6_a_box_of_parts")
short_forms = pytest.mark.parametrize(
    "tutorial",
    [pytest.param(path, marks=() if path.stem in SHORT else pytest.mark.exhaustive) for path in TUTORIALS],
    ids=lambda path: path.stem,
)

SMALL = """# %% [markdown]
# # A small one
# A formula, $x$.

# %%
import os
print("in CI:", "CI" in os.environ)
import sys
sys.stdout.flush()
print("and more")

# %%
x = 1

# %% alt="Two points"
import matplotlib.pyplot as plt
plt.plot([0, 1])
plt.show()

# %%
import torch
import pyro_pcflow as pcf
pcf.plotting.view_clouds(torch.zeros(2, 3) + torch.arange(2.0)[:, None], height=200)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg:UserWarning")  # a figure cannot be shown here
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")  # a script leaves that to its end
@short_forms
def test_the_short_form_runs_from_any_folder(tutorial, tmp_path, monkeypatch):
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # The processes that it starts find the package too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(build.ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(tutorial), run_name="__main__")
    finally:
        pyro.clear_param_store()
        pyplot.close("all")
        gc.collect()  # temporary folders too
    assert list(tmp_path.iterdir()) == []


@each
def test_it_claims_something_and_has_a_short_form(tutorial):
    tree = ast.parse(tutorial.read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    assert any(isinstance(node, ast.Name) and node.id == "smoke" for node in ast.walk(tree))
    assert tutorial.read_text(encoding="utf-8").startswith("# %% [markdown]\n# # ")


DOTTED = re.compile(r"\w+(\.\w+)*")


def called(tree):
    """Calls of the package by its dotted name: line, name, number of arguments, and the names of the keywords."""
    aliases = {"pcf": "pyro_pcflow"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_pcflow"):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and DOTTED.fullmatch(name := ast.unparse(node.func)):
            first, *rest = name.split(".")
            if first in aliases:
                positional = sum(not isinstance(argument, ast.Starred) for argument in node.args)
                keywords = [keyword.arg for keyword in node.keywords if keyword.arg]
                yield node.lineno, ".".join([aliases[first], *rest]), positional, keywords


def resolve(name):
    """What a dotted name of the package means."""
    first, *rest = name.split(".")
    thing = importlib.import_module(first)
    for part in rest:
        if inspect.ismodule(thing) and not hasattr(thing, part):
            thing = importlib.import_module(f"{thing.__name__}.{part}")
        else:
            thing = getattr(thing, part)
    return thing


@each
def test_what_it_calls_takes_what_it_gives(tutorial):
    """A name or a keyword that is gone is found here, although the long ones do not run."""
    calls = list(called(ast.parse(tutorial.read_text(encoding="utf-8"))))
    assert calls
    for line, name, positional, keywords in calls:
        try:
            inspect.signature(resolve(name)).bind_partial(*[None] * positional, **dict.fromkeys(keywords))
        except (AttributeError, ImportError, TypeError) as error:
            pytest.fail(f"{tutorial.name}:{line}: {name}: {error}")


@each
def test_its_page_is_that_of_today(tutorial):
    page = build.PAGES / f"{tutorial.stem}.md"
    outputs = build.stored_outputs(tutorial, page)
    assert outputs is not None, f"the code has changed: python -m tutorials.build tutorials/{tutorial.name}"
    assert page.read_text(encoding="utf-8") == build.page_of(tutorial, outputs), "the text has changed: the same"


@each
def test_every_picture_of_its_page_is_there_and_no_other(tutorial):
    text = (build.PAGES / f"{tutorial.stem}.md").read_text(encoding="utf-8")
    named = set(re.findall(rf"[(\"]({tutorial.stem}/\d+\.(?:webp|html))[)\"]", text))
    folder = build.PAGES / tutorial.stem
    assert named == {f"{tutorial.stem}/{path.name}" for path in folder.glob("*")}


@each
def test_its_viewers_are_those_of_today(tutorial):
    template = build.ROOT / "pyro_pcflow" / "plotting" / "viewer.html"
    text = template.read_text(encoding="utf-8").replace("{{script}}", template.with_suffix(".js").read_text("utf-8"))
    pattern = re.sub(r"\\{\\{\w+\\}\\}", "(.*)", re.escape(text))
    for viewer in (build.PAGES / tutorial.stem).glob("*.html"):
        same = re.fullmatch(pattern, viewer.read_text(encoding="utf-8"), re.S) is not None
        assert same, (
            f"the viewer has changed: python -m tutorials.build tutorials/{tutorial.name}, with --rerun if that is not "
            "enough"
        )


@pytest.mark.slow
def test_a_page_has_text_code_and_what_the_full_form_put_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "PAGES", tmp_path / "pages")
    monkeypatch.setenv("CI", "1")
    tutorial = tmp_path / "1_small.py"
    tutorial.write_text(SMALL)
    build.main([str(tutorial)])
    page = tmp_path / "pages" / "1_small.md"
    text = page.read_text()
    assert "# A small one\nA formula, $x$." in text
    assert "in CI: False\nand more\n```" in text
    assert "![Two points](1_small/1.webp)" in text
    assert 'src="1_small/2.html"' in text
    assert "srcdoc" not in text
    assert "<!DOCTYPE html>" in (tmp_path / "pages" / "1_small" / "2.html").read_text()

    # Another text needs no other run; another code does.
    tutorial.write_text(SMALL.replace("small", "little"))
    capsys.readouterr()
    build.main([str(tutorial)])
    assert "text only" in capsys.readouterr().out
    assert page.read_text() == text.replace("A small one", "A little one")
    tutorial.write_text(SMALL.replace("x = 1", "x = 2"))
    assert build.stored_outputs(tutorial, page) is None


@pytest.mark.slow
def test_a_failing_tutorial_has_no_page(tmp_path, monkeypatch):
    from nbclient.exceptions import CellExecutionError

    monkeypatch.setattr(build, "PAGES", tmp_path / "pages")
    tutorial = tmp_path / "2_broken.py"
    tutorial.write_text("# %% [markdown]\n# # Broken\n\n# %%\nassert 1 == 2\n")
    with pytest.raises(CellExecutionError, match="AssertionError"):
        build.main([str(tutorial)])
    assert not (tmp_path / "pages").exists()
    with pytest.raises(SystemExit):
        build.main([str(tmp_path / "3_missing.py")])
