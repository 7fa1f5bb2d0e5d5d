"""Errors and warnings of the library in the words of the command line."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_pcflow.cli import main, make_parser
from pyro_pcflow.cli.wording import in_options, keywords_of

OPTIONS = ["-h", "--num-points", "--columns", "--split", "--resume", "--noise", "--label", "--refuse-nan", "--cache"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("continue with resume=True (on the command line --resume)", "continue with --resume"),
        ("no checkpoint yet; resume=True (--resume) starts again", "no checkpoint yet; --resume starts again"),
        ('noise="auto": a standard deviation', "--noise auto: a standard deviation"),
        ('Give noise="auto" (on the command line --noise auto), or', "Give --noise auto, or"),
        ("name columns with columns= or features=", "name columns with --columns or features="),
        ("belongs to no split, and split='val' was asked for", "belongs to no split, and --split val was asked for"),
        ("num_points must be at least 1", "--num-points must be at least 1"),
        ("give num_points.", "give --num-points."),
        ("give labels=3, one each", "give --label 3, one each"),
        ("they may be kept in path=runs/a.b; it", "they may be kept in --cache runs/a.b; it"),
        ("remove them, or leave them out with drop_nan=True", "remove them, or leave --refuse-nan out"),
    ],
)
def test_keywords_become_options(text, expected):
    assert in_options(text, keywords_of(OPTIONS)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "held_out=0.1 of 3 points",  # no option of this command
        "/tmp/num_points/a.ply: no such file",
        "num_points.ply: no such file",
        "data/resume=True/a.npy: no such file",
        "[Errno 2] No such file or directory: 'num_points'",
        "--set: unknown option; it takes num_points, columns",
        "the split of these points, and their label",
        "leave it out: noise=None, or resume=False",
    ],
)
def test_what_is_no_keyword_stays(text):
    assert in_options(text, keywords_of(OPTIONS)) == text


@pytest.mark.parametrize(
    ("command", "known"),
    [("train", {"num_points", "resume", "columns", "split"}), ("completion", {"help"})],
)
def test_keywords_are_those_of_the_command(command, known):
    words = {"train": ["train"], "completion": ["completion", "bash"]}[command]
    keywords = make_parser(words).parse_args(words).keywords
    assert known <= {*keywords}
    assert ("num_points" in keywords) == ("num_points" in known)


def test_a_command_says_its_options(tmp_path, capsys):
    np.savetxt(tmp_path / "a.csv", np.zeros((3, 4)), delimiter=",", header="a,b,c,d", comments="")
    assert main(["convert", str(tmp_path / "a.csv"), "--num-points", "3", "--out", str(tmp_path / "a.npy")]) == 2
    told = capsys.readouterr().err
    assert "--columns" in told
    assert "columns=" not in told
