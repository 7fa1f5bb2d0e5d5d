"""Optional libraries: missing ones are named with the line that installs them."""

import sys

import pytest

from pyro_pcflow.data.readers.extras import require


def test_a_module_that_is_there():
    assert require("json.decoder", "las", "Files are") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part"])
def test_a_missing_module_is_named(module):
    with pytest.raises(ValueError, match=r'^Files are read by no_such_library: pip install "pyro-pcflow\[e57\]"$'):
        require(module, "e57", "Files are")


def test_a_module_that_is_switched_off(monkeypatch):
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(ValueError, match=r"pip install"):
        require("laspy", "las", "Files are")


def test_a_module_that_does_not_start_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise ImportError('libgone.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"it is there, but: libgone\.so is missing"):
        require("broken_library", "las", "Files are")


def test_a_module_whose_own_requirement_is_missing_says_so(tmp_path, monkeypatch):
    (tmp_path / "hungry_library.py").write_text("import another_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"it is there, but: No module named 'another_library'"):
        require("hungry_library", "las", "Files are")
