"""Benchmarks and tutorials are written as a user's code is: with public names alone."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tutorials").glob("[0-9]*.py")])


def private_names(source):
    """Names of the package, dotted, of which a part is in no `__all__`."""
    tree, aliases = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_pcflow"):
            for alias in node.names:
                yield from _private(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("pyro_pcflow"):
                    yield from _private(alias.name)
                    aliases[alias.asname or alias.name] = alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            if first in aliases and all(part.isidentifier() for part in rest):
                yield from _private(".".join([aliases[first], *rest]))


def _private(name):
    first, *parts = name.split(".")
    thing = importlib.import_module(first)
    for part in parts:
        if not inspect.ismodule(thing):
            return
        if part not in thing.__all__:
            yield name
            return
        thing = getattr(thing, part)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_uses_public_names_alone(path):
    assert list(private_names(path.read_text(encoding="utf-8"))) == []


def test_a_private_name_is_found():
    assert list(private_names("from pyro_pcflow.ops.random import seeded")) == ["pyro_pcflow.ops.random.seeded"]
    assert list(private_names("import pyro_pcflow as pcf\npcf.training.trainer.Trainer(pcf.fit)")) == [
        "pyro_pcflow.training.trainer.Trainer",
        "pyro_pcflow.training.trainer",
    ]
    assert list(private_names("import pyro_pcflow as pcf\npcf.PointCloudFlow(3).condition()")) == []
