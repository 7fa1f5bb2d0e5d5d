from __future__ import annotations

import json
import os

import pytest

from pyro_pcflow.ops.reading import check_regular, phrase, printable, read_small_text, shortened


def test_any_name_can_be_printed():
    name = os.fsdecode(b"caf\xc3\xa9-\xff.npy")
    assert printable(name) == "café-\\xff.npy"
    printable(name).encode("utf-8")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("a folder"), "a folder"),
        (ValueError(), "ValueError: "),
        (KeyError(7), "KeyError: 7"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (json.JSONDecodeError("Expecting value", "", 0), "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        (RuntimeError("two\n  lines"), "RuntimeError: two lines"),
        (ValueError("\udcff"), "\\udcff"),
    ],
)
def test_errors_in_one_line(error, expected):
    assert phrase(error) == expected


def test_a_long_error_is_cut():
    assert phrase(ValueError("x" * 1000)) == "x" * 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        (-7, "-7"),
        (-(10**18), "a huge number"),
        ("é" * 100, ascii("é" * 60)),
        ({"a": 1}, "a dict"),
    ],
)
def test_values_of_any_size_are_shown_short(value, expected):
    assert shortened(value) == expected


def test_only_regular_files_are_opened(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("text")
    check_regular(file)
    with pytest.raises(ValueError, match="a folder"):
        check_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nothing")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="neither a file nor a folder"):
            read_small_text(tmp_path / "pipe", 10)


def test_small_texts_are_read_and_others_refused(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("é".encode())
    assert read_small_text(file, 2) == "é"
    with pytest.raises(ValueError, match="more than 1 bytes"):
        read_small_text(file, 1)
    file.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_small_text(file, 2)
