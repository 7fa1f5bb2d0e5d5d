"""Lines of numbers: their values, and the line of what is none."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_pcflow.data.readers import text_rows
from pyro_pcflow.data.readers.text_rows import TextRows, first_words, pieces, plain_text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"1\n2", b"1\n2\n"),
        (b"1\r\n2\r\n", b"1\n2\n"),
        (b"1\r2", b"1\n2\n"),
        (b"\xef\xbb\xbf1\n", b"1\n"),
        ("1 é\n".encode("utf-16"), "1 é\n".encode()),
        ("1\n".encode("utf-16-be"), b"\x001\x00\n"),
        (b"\xfe\xff" + "1\n".encode("utf-16-be"), b"1\n"),
        (b"", b"\n"),
    ],
)
def test_plain_text(data, text):
    assert plain_text(data) == text


NUMBERS = ["0", "-0", "+5", "7.", ".5", "-.25", "1e3", "1E-3", "-2.5e+2", "0.1", "123456.789012", "3.141592653589793"]
NUMBERS += [
    "9007199254740993.0",
    "0.00000000000000000000001",
    "1e308",
    "nan",
    "-inf",
    "Infinity",
    "12345678901234567890",
]


@pytest.mark.parametrize("word", NUMBERS)
def test_each_number_is_as_python_reads_it(word):
    for text in (f"{word}\n", f"1 {word} 2.5\n", f"{word}\n{word}\n0.125\n"):
        found = TextRows(text.encode())
        values = found.values(0, len(found.counts))
        assert np.array_equal(values.astype(float), [float(w) for w in text.split()], equal_nan=True)


def test_random_decimals_are_as_python_reads_them():
    rng = np.random.default_rng(0)
    words = [
        f"{value:.{digits}f}" for digits in range(16) for value in rng.normal(size=200) * 10.0 ** rng.integers(-3, 6)
    ]
    text = "\n".join(" ".join(words[i : i + 3]) for i in range(0, len(words), 3)) + "\n"
    rows = TextRows(text.encode())
    assert rows.values(0, len(rows.counts)).tolist() == [float(word) for word in words]


def test_integers_stay_integers():
    values = TextRows(b"1 -2\n9007199254740993\n").values(0, 2)
    assert values.dtype == np.int64
    assert values.tolist() == [1, -2, 9007199254740993]


def test_fortran_exponents():
    assert TextRows(b"1.0D-01 2d2 -3.D+1\n").values(0, 1).tolist() == [0.1, 200, -30]


WRONG = [
    "x",
    "1x",
    "1.2.3",
    "1-2",
    "--1",
    "1_000",
    "0x10",
    "1,5",
    "1e",
    "e5",
    ".",
    "-",
    "1\0",
    "\0",
    "1.-5",
    "na",
    "1e5.0",
    "½",
]


@pytest.mark.parametrize("word", WRONG)
@pytest.mark.parametrize("other", ["1", "1.5", "1e5"])
def test_words_that_are_no_numbers(word, other):
    rows = TextRows(f"1 2\n\n{other} {word}\n5 6\n".encode())
    with pytest.raises(ValueError, match=r"line 3: .* is no number"):
        rows.values(0, 4)
    with pytest.raises(ValueError, match=r"line 93: .* is no number"):
        TextRows(f"{other} {word}\n".encode(), 93).values(0, 1)
    with pytest.raises(ValueError, match=r"line 17: .* is no number"):
        TextRows(f"1\n{other} {word}\n".encode(), np.array([5, 17])).values(0, 2)


def test_words_of_lines():
    rows = TextRows(b" 1  2\t3 \n\n\n4\n")
    assert rows.counts.tolist() == [3, 0, 0, 1]
    assert rows.values(1, 4).tolist() == [4]
    assert rows.values(1, 1).tolist() == []
    assert rows.words(0, 2) == [b"1", b"2", b"3"]
    assert rows.line_number(3) == 4


@pytest.mark.parametrize("indentation", [0, 1, 7, 40])
def test_first_words(indentation):
    text = b"a\n" + b" " * indentation + b"b c\n\n \t\n\te\n"
    codes = np.frombuffer(text, np.uint8)
    begins = np.flatnonzero(np.concatenate([[True], codes[:-1] == 10]))
    found = first_words(codes, begins)
    assert bytes(codes[found]) == b"ab\n\ne"


def test_pieces_change_nothing(monkeypatch):
    text = b"".join(b"%d %d.5\n" % (i, i) if i % 7 else b"\n" for i in range(500))
    whole = TextRows(text)
    monkeypatch.setattr(text_rows, "_PIECE", 100)
    cut = TextRows(text)
    assert len(list(pieces(text, 0, len(text)))) > 20
    assert cut.counts.tolist() == whole.counts.tolist()
    assert cut.values(3, 490).tolist() == whole.values(3, 490).tolist()
    with pytest.raises(ValueError, match="line 500: '49y'"):
        TextRows(text[:-4] + b"y\n").values(0, 500)
