"""Run tutorials in their full form and write them as pages of the documentation.

    python -m tutorials.build                                # all that changed
    python -m tutorials.build tutorials/1_a_cow_out_of_noise.py --rerun

A page keeps what its code printed and drew. Where only text has changed since, that is used again; where code has
changed, the tutorial runs again, from top to bottom. Its viewers take on the script and the style of today.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "tutorials"
_OUTPUT = re.compile(r"<!-- output -->\n(.*?)<!-- /output -->\n", re.S)
_FRAME = re.compile(r'srcdoc="([^"]*)"')
_STYLE = re.compile(r"<style>.*?</style>", re.S)
_SCRIPT = re.compile(r"<script>\n.*?\n</script>", re.S)
_BETWEEN = "\n```\n\n```{.text .output}\n"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def tutorials() -> list[Path]:
    """The tutorials, in the order in which they are read."""
    return sorted((ROOT / "tutorials").glob("[0-9]*_*.py"))


def page_of(tutorial: Path, outputs: Sequence[str]) -> str:
    """Return a tutorial as Markdown.

    Args:
        tutorial: a script in percent format.
        outputs: what each of its code cells put out, as Markdown.

    Raises:
        ValueError: there are not as many outputs as code cells.
    """
    cells = _read(tutorial).cells
    code = sum(cell.cell_type == "code" for cell in cells)
    if code != len(outputs):
        raise ValueError(f"{tutorial.name}: expected an output for each of {code} code cells, got {len(outputs)}")
    rest = iter(outputs)
    parts = [
        f"<!-- Made from tutorials/{tutorial.name} by tutorials/build.py: edit that. code {code_hash(tutorial)} -->"
    ]
    for cell in cells:
        if cell.cell_type != "code":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```\n\n<!-- output -->\n{next(rest)}<!-- /output -->")
    return "\n\n".join(parts) + "\n"


def code_hash(tutorial: Path) -> str:
    """A fingerprint of the code of a tutorial, which its text does not change."""
    code = [cell.source for cell in _read(tutorial).cells if cell.cell_type == "code"]
    return hashlib.sha256("\n# %%\n".join(code).encode()).hexdigest()[:16]


def stored_outputs(tutorial: Path, page: Path) -> list[str] | None:
    """What an earlier run of the same code put out, or `None` if there was none."""
    if not page.exists():
        return None
    text = page.read_text(encoding="utf-8")
    return _OUTPUT.findall(text) if f"code {code_hash(tutorial)} -->" in text.split("\n", 1)[0] else None


def fresh_viewer(page: str) -> str:
    """A page of `pcf.plotting.view_clouds` with the script and the style that it would have today."""
    source = resources.files("pyro_pcflow.plotting")
    script = source.joinpath("viewer.js").read_text(encoding="utf-8")
    style = _STYLE.findall(source.joinpath("viewer.html").read_text(encoding="utf-8"))[0]
    page = _STYLE.sub(lambda _: style, page)
    return _SCRIPT.sub(lambda _: f"<script>\n{script}\n</script>", page)


def run(tutorial: Path, folder: Path) -> list[str]:
    """Run a tutorial as a notebook, in its full form, and return what each code cell put out, as Markdown.

    Args:
        tutorial: a script in percent format.
        folder: where pictures and viewers go; what was there is replaced, once the run is over.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised, an assertion for instance.
    """
    from nbclient import NotebookClient

    notebook = _read(tutorial)
    with tempfile.TemporaryDirectory() as scratch:
        # As a script would find the package, whether it is installed or not.
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {key: value for key, value in os.environ.items() if key not in ("CI", "MPLBACKEND")}
        place = {"metadata": {"path": scratch}}
        client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources=place)
        client.execute(env={**environment, "PYTHONPATH": paths})
    shutil.rmtree(folder, ignore_errors=True)
    heading, outputs, store = tutorial.stem, [], _Files(folder)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            alt = cell.metadata.get("alt", heading)
            parts = "".join(_markdown(output, alt, store) for output in cell.outputs)
            # A stream arrives in pieces.
            outputs.append(parts.replace(_BETWEEN, "\n"))
        else:
            heading = (re.findall(r"^#+ (.*)", cell.source, re.M) or [heading])[-1]
    return outputs


class _Files:
    """Names for pictures and viewers of one tutorial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def new(self, ending: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count += 1
        return self.folder / f"{self.count}.{ending}"


def _read(tutorial: Path) -> Any:
    import jupytext

    return jupytext.read(tutorial, fmt="py:percent")


def _markdown(output: Any, alt: str, store: _Files) -> str:
    if output.output_type == "stream":
        # A progress bar writes to the error stream.
        return _fence(output.text) if output.name == "stdout" else ""
    data = output.data
    if "image/png" in data:
        return _picture(data["image/png"], alt, store.new("webp"))
    if "text/html" in data:
        return _frames(data["text/html"], store)
    return _fence(data["text/plain"])


def _fence(text: str) -> str:
    return f"```{{.text .output}}\n{_COLOUR.sub('', text).rstrip()}\n```\n\n"


def _picture(encoded: str, alt: str, path: Path) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        image.convert("RGB").save(path, quality=88, method=6)
        width = image.width
    return f"![{alt}]({path.parent.name}/{path.name}){{ width={width} }}\n\n"


def _frames(text: str, store: _Files) -> str:
    """HTML, with the pages of its frames as files: a page of Markdown is no place for a script."""

    def out(found: re.Match[str]) -> str:
        path = store.new("html")
        path.write_text(html.unescape(found[1]), encoding="utf-8")
        return f'src="{path.parent.name}/{path.name}"'

    return f"{_FRAME.sub(out, text)}\n\n"


def build(tutorial: Path, *, rerun: bool = False) -> None:
    """Write the page of a tutorial, and say what was done."""
    page = PAGES / f"{tutorial.stem}.md"
    outputs = None if rerun else stored_outputs(tutorial, page)
    start = time.perf_counter()
    ran = outputs is None
    if outputs is None:
        outputs = run(tutorial, PAGES / tutorial.stem)
    for viewer in (PAGES / tutorial.stem).glob("*.html"):
        viewer.write_text(fresh_viewer(viewer.read_text(encoding="utf-8")), encoding="utf-8")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(page_of(tutorial, outputs), encoding="utf-8")
    print(f"{tutorial.name}: {f'ran in {time.perf_counter() - start:.0f} s' if ran else 'text only'}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run tutorials in their full form and write their pages.")
    parser.add_argument("tutorials", nargs="*", type=Path, help="scripts; all of them by default")
    parser.add_argument("--rerun", action="store_true", help="run again, although no code has changed")
    options = parser.parse_args(arguments)
    missing = [str(path) for path in options.tutorials if not path.is_file()]
    if missing:
        parser.error(f"no such tutorial: {', '.join(missing)}; there are {', '.join(p.name for p in tutorials())}")
    for tutorial in options.tutorials or tutorials():
        build(tutorial, rerun=options.rerun)


if __name__ == "__main__":
    main()
