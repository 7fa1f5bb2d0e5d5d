"""Cells, numbers and comments in every dialect of tables."""

from __future__ import annotations

import math

import pytest

from pyro_pcflow.data.readers.text_dialect import DIALECTS, Dialect, comment_mark, is_integer


@pytest.mark.parametrize(
    ("delimiter", "line", "cells"),
    [
        (" ", " 1 \t2\v3 ", ["1", "2", "3"]),
        (" ", "1\u00a0234 5", ["1\u00a0234", "5"]),
        (" ", '"a b" 1 "c ""d"""', ["a b", "1", 'c "d"']),
        (",", "1, 2,,3 ,", ["1", "2", "", "3", ""]),
        (",", '"1,5" , "2" ,a', ["1,5", "2", "a"]),
        (";", '1;"a ""b""";3', ["1", 'a "b"', "3"]),
        ("\t", "1\t\t2", ["1", "", "2"]),
    ],
)
def test_cells(delimiter, line, cells):
    assert Dialect(delimiter).cells(line) == cells


@pytest.mark.parametrize(("delimiter", "line"), [(" ", '1 "2'), (" ", 'a"b"c 1'), (",", '"1"2,3'), (",", '1,"')])
def test_broken_quotes(delimiter, line):
    with pytest.raises(ValueError, match="quote"):
        Dialect(delimiter).cells(line)


@pytest.mark.parametrize(
    ("cell", "point", "comma"),
    [
        ("1.5", 1.5, None),
        ("1,5", None, 1.5),
        ("-,5", None, -0.5),
        ("1,", None, None),
        ("7.", 7, None),
        ("+3", 3, 3),
        ("1.5D-02", 0.015, None),
        ("2d3", 2000, 2000),
        ("\u22122", -2, -2),
        ("-inf", -math.inf, -math.inf),
        ("1.#INF", math.inf, math.inf),
        ("0x1F", None, None),
        ("1_000", None, None),
        ("\u0661", None, None),
        ("1e", None, None),
        ("a", None, None),
    ],
)
def test_numbers(cell, point, comma):
    assert Dialect().number(cell) == point
    assert Dialect(";", ",").number(cell) == comma


@pytest.mark.parametrize("cell", ["", "NA", "nan", "-NaN", "nan(ind)", "#N/A", "1.#QNAN", "NULL", "#DIV/0!"])
def test_cells_that_say_nothing(cell):
    assert Dialect().is_empty(cell)
    assert not Dialect().is_word(cell)
    assert not Dialect().is_empty("0")


@pytest.mark.parametrize(
    ("cell", "word"), [("a1", True), ("0x1F", False), ("1.5", False), ("***", False), ("B\xe4", True)]
)
def test_words(cell, word):
    assert Dialect().is_word(cell) is word


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("1 2 # a", "1 2 "),
        ("  // a", ""),
        ("% a", ""),
        ("! a", ""),
        ("#N/A 1", "#N/A 1"),
        ("1 #n/a # b", "1 #n/a "),
        ('"a # b" 1 # c', '"a # b" 1 '),
        ("1 2", "1 2"),
    ],
)
def test_comments(line, rest):
    assert Dialect().without_comment(line) == rest


def test_a_semicolon_is_a_comment_where_it_separates_nothing():
    assert (comment_mark("; a"), comment_mark(";1", ";")) == (";", None)
    assert Dialect(";").without_comment(";1;2") == ";1;2"


def test_semicolons_are_tried_before_commas_and_commas_before_blanks():
    order = [(dialect.delimiter, dialect.decimal) for dialect in DIALECTS]
    assert order.index((";", ",")) < order.index((",", ".")) < order.index((" ", ".")) < order.index((" ", ","))
    assert len(set(order)) == len(order)


@pytest.mark.parametrize(
    ("cells", "integer"), [(["5"], True), (["-5"], True), (["5", "6"], False), (["5."], False), ([], False)]
)
def test_a_count_is_one_integer_alone(cells, integer):
    assert is_integer(cells) is integer
