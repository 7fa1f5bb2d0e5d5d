"""Code in the README and on pages of the documentation runs as it stands, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), flags=re.M | re.S)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("README.md", 4),
        ("docs/index.md", 1),
        ("docs/inference.md", 2),
        ("docs/many-shapes.md", 4),
        ("docs/reference/metrics.md", 1),
    ],
)
def test_code_blocks_run(name, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks(name)
    assert len(found) == count
    names = {}
    for block in found:
        # The same training, shorter.
        exec(compile(block.replace("max_seconds=20", "max_steps=5"), name, "exec"), names)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
