"""Tables of text as people's programs write them, and damaged ones."""

from __future__ import annotations

import codecs
import random
import re

ENCODINGS = {
    "utf-8": lambda text: text.encode("utf-8"),
    "utf-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode("utf-8"),
    "utf-16 little": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16 big": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-32 little": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "utf-32 big": lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
}
# What stands between cells, and between digits.
DIALECTS = [
    (" ", "."),
    ("   ", "."),
    (" \t ", "."),
    ("\t", "."),
    (",", "."),
    (", ", "."),
    (" ,\t", "."),
    (";", "."),
    ("; ", "."),
    ("|", "."),
    (" | ", "."),
    (" ", ","),
    ("   ", ","),
    ("\t", ","),
    (";", ","),
    (" ; ", ","),
    ("|", ","),
]
ROWS = [["0.1", "-0.25", "1e-3"], ["1.5", "2", "3.25"], ["-4", "5.125", "+6.5"], ["7.", ".5", "1234.5"]]
VALUES = [[0.1, -0.25, 1e-3], [1.5, 2.0, 3.25], [-4.0, 5.125, 6.5], [7.0, 0.5, 1234.5]]


def written(rows, delimiter=" ", decimal=".", header="", end="\n", before="", behind="", quoted=False, last_end=True):
    """A table of cells as text."""
    lines = [header.replace("~", delimiter)] if header else []
    for row in rows:
        cells = [cell.replace(".", decimal) for cell in row]
        if decimal == ",":  # nobody writes "7," there
            cells = [re.sub(r",$", "", cell) for cell in cells]
        if quoted:
            cells = [f'"{cell}"' for cell in cells]
        lines.append(before + delimiter.join(cells) + behind)
    return end.join(lines) + (end if last_end else "")


def damaged(data, generator):
    """One of many ways in which a file may be broken."""
    data = bytearray(data)
    kind = generator.randrange(8)
    for _ in range(generator.choice([1, 1, 1, 2, 5])):
        place = generator.randrange(len(data) + 1)
        if kind == 0:
            del data[place:]
        elif kind == 1 and data:
            data[min(place, len(data) - 1)] = generator.randrange(256)
        elif kind == 2:
            data[place:place] = generator.choice(
                [b"9" * 400, b"-", b",", b";", b"\t", b'"', b"#", b".", b"e", b"\0", b"1e999"]
            )
        elif kind == 3:
            del data[place : place + generator.randrange(1, 20)]
        elif kind == 4:
            lines = bytes(data).split(b"\n")
            lines.insert(
                generator.randrange(len(lines) + 1), generator.choice([b"", b"5", b"1 2", b"x y z", b"a;b", *lines])
            )
            data = bytearray(b"\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\n")
            generator.shuffle(lines)
            data = bytearray(b"\n".join(lines))
        elif kind == 6:
            numbers = list(re.finditer(rb"[0-9.]+", bytes(data)))
            if numbers:
                chosen = generator.choice(numbers)
                data[chosen.start() : chosen.end()] = generator.choice(
                    [
                        b"0",
                        b"-1",
                        b"4294967296",
                        b"1e400",
                        b"nan",
                        b"0x1F",
                        b"1,234",
                        b"99999999999999999999999",
                        b"word",
                    ]
                )
        else:
            data[place:place] = bytes(data[generator.randrange(len(data) + 1) :][:50])
    return bytes(data)


def generators(count):
    return [random.Random(seed) for seed in range(count)]
