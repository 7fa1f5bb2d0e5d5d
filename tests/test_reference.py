"""The reference has every public name, and no other."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import pyro_pcflow as pcf

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
ROOMS = [name for name in pcf.__all__ if inspect.ismodule(getattr(pcf, name))]

AS_FOR = re.compile(r"as for `(\w+)`")


def documented():
    """The names after ":::", as they are imported, and the pages that they are on."""
    found = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M):
            assert name not in found, f"{name} is on {page.name} and on {found[name]}"
            found[name] = page.name
    return found


def resolve(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def public():
    names = [f"pyro_pcflow.{name}" for name in pcf.__all__ if name not in ROOMS]
    for room in ROOMS:
        names += [f"pyro_pcflow.{room}.{name}" for name in getattr(pcf, room).__all__]
    return names


def test_every_room_has_a_page():
    assert {page.stem for page in REFERENCE.glob("*.md")} == set(ROOMS)


def test_every_public_name_is_on_a_page_once_under_one_of_its_names():
    # A class that two modules export is one object.
    shown = {id(resolve(name)): name for name in documented()}
    assert [name for name in public() if id(resolve(name)) not in shown] == []
    assert len(shown) == len(documented())


def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # it is inside of a module
        return False


def test_no_name_on_a_page_is_that_of_a_module():
    # mkdocstrings would show `metrics/emd.py` for `metrics.emd`, and not the function.
    assert [name for name in documented() if is_module(name)] == []


def test_every_name_on_a_page_is_public():
    known = {id(resolve(name)) for name in public()}
    assert [name for name in documented() if id(resolve(name)) not in known] == []


@pytest.mark.parametrize("name", public())
def test_its_docstring_names_its_arguments_and_has_an_example(name):
    subject = resolve(name)
    text = inspect.getdoc(subject) or ""
    assert text, name
    if not callable(subject) or (inspect.isclass(subject) and issubclass(subject, Exception)):
        return
    # "Arguments as for `other`" sends the reader there.
    text += "".join(inspect.getdoc(getattr(inspect.getmodule(subject), other)) for other in AS_FOR.findall(text))
    signature = inspect.signature(subject)
    arguments = [p.name for p in signature.parameters.values() if p.name not in ("self", "validate_args")]
    missing = [argument for argument in arguments if not re.search(rf"^ *\**{argument}:", text, re.M)]
    assert missing == [], f"{name} does not say what {missing} is"
    # What a function returns is shown by the example of that function.
    is_result = inspect.isclass(subject) and (issubclass(subject, tuple) or dataclasses.is_dataclass(subject))
    assert is_result or ">>>" in text, f"{name} has no example"
