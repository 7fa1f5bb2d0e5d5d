"""Bodies of tables of text: types, pieces, and words among numbers."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.text_files import DIALECTS, written
from pyro_pcflow.data.readers.text_columns import read_columns
from pyro_pcflow.data.readers.text_dialect import Dialect


def read(text, delimiter=" ", decimal=".", **options):
    """Columns by the letters x, y, z and so on."""
    dialect = Dialect(delimiter, decimal)
    width = len(dialect.cells(text.split("\n")[0]))
    columns = read_columns(text.encode(), dialect, width, **options)
    return {name: column.values() for name, column in zip("xyz", columns, strict=False)}


def test_lines_from_one_place_to_another():
    text = "9 9\n1 2\n3 4\n5\n"
    found = read(text, start=4, end=12, first_line=2)
    assert [values.tolist() for values in found.values()] == [[1, 3], [2, 4]]
    with pytest.raises(ValueError, match="line 4 has 1 columns, the lines around it have 2"):
        read(text, start=4, first_line=2)


@pytest.mark.parametrize("line", ["0.5;1", "0,5;1,2,3", "0.5;1 234"])
def test_decimal_points_among_decimal_commas(line):
    with pytest.raises(ValueError, match=r"line 2: '.*' is no number"):
        read(f"0,5;1\n{line}\n", ";", ",")


def test_a_delimiter_behind_each_line():
    found = read("1,2,\n3,4,\n", ",", trailing=True)
    assert [values.tolist() for values in list(found.values())[:2]] == [[1, 3], [2, 4]]
    assert np.isnan(found["z"]).all()


TYPES = {
    "1 2": [np.int64, np.int64],
    "1 2.": [np.int64, np.float64],
    "1 2e0": [np.int64, np.float64],
    "1 18446744073709551615": [np.int64, np.uint64],
    "1 18446744073709551616": [np.int64, np.float64],
    "1 2\n3 NA": [np.int64, np.float64],
    "1 -2\n3 18446744073709551615": None,
    "1 -9223372036854775808": [np.int64, np.int64],
}


@pytest.mark.parametrize("text", TYPES)
def test_types(text):
    if TYPES[text] is None:
        with pytest.raises(ValueError, match="no float64 keeps"):
            read(text + "\n")
        return
    assert [values.dtype for values in read(text + "\n").values()] == TYPES[text]


@pytest.fixture
def small_pieces(monkeypatch):
    """The file is read in pieces, here of some lines each: none may begin or end wrongly."""
    monkeypatch.setattr("pyro_pcflow.data.readers.text_columns._PIECE", 100)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("delimiter", "decimal"), DIALECTS)
def test_pieces(delimiter, decimal):
    values = np.arange(900).reshape(-1, 3) / 8
    rows = [[str(value) for value in row] for row in values.tolist()]
    own = "\t" if delimiter == "\t" else delimiter.strip() or " "
    found = read(written(rows, delimiter, decimal), own, decimal)
    assert np.array_equal(np.stack(list(found.values()), axis=1), values)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "odd", ["1,,3\n", '"1",2,3\n', '1,"2" ,3\n', "1,2,3 # a\n", "\n", "1,2,nan\n", "#\n", "% a\n", ",,\n"]
)
def test_pieces_of_several_kinds(odd):
    """A piece that needs the slow way stands between others."""
    line = "0.125,2,3.5\n"
    found = read(line * 100 + odd + line * 100, ",")
    there = 1 if "1" in odd else 0
    assert len(found["x"]) == 200 + there
    assert found["x"].dtype == np.float64
    assert np.nansum(found["x"]) == 200 * 0.125 + there


@pytest.mark.usefixtures("small_pieces")
def test_integers_of_one_piece_among_floats_of_another():
    found = read("1 2\n" * 300 + "1.5 2\n")
    assert found["x"].dtype == np.float64
    assert found["y"].dtype == np.int64
    assert found["x"].sum() == 301.5
    with pytest.raises(ValueError, match="no float64 keeps"):
        read("9007199254740993 2\n" * 60 + "nan 2\n" * 300)
    with pytest.raises(ValueError, match="no float64 keeps"):
        read("18446744073709551615 2\n" * 60 + "-1 2\n" * 300)
    found = read("18446744073709551615 2\n" * 60 + "1 2\n" * 300)
    assert found["x"].dtype == np.uint64


@pytest.mark.usefixtures("small_pieces")
def test_words_after_many_empty_cells():
    found = read("1,2,\n" * 300 + "3,4,late\n" + "1,2,\n" * 300, ",")
    assert found["z"][[0, 300, -1]].tolist() == ["", "late", ""]
    with pytest.raises(ValueError, match="line 301: 'late' is no number"):
        read("1,2,5\n" * 300 + "3,4,late\n", ",")


def test_words_too_long_for_an_array(monkeypatch):
    monkeypatch.setattr("pyro_pcflow.data.readers.text_columns._PIECE", 500)
    monkeypatch.setattr("pyro_pcflow.data.readers.text_columns._MOST_OF_WORDS", 1 << 16)
    text = f"1 2 {'b' * 250}\n" + "1 2 a\n" * 200
    with pytest.raises(ValueError, match="column 3 has words of up to 250 characters, too long"):
        read(text)
    assert len(read(text.replace("b" * 250, "b"))["z"]) == 201
