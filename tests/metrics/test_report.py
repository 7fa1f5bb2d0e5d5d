"""Reports: kept as JSON, read as Markdown, and put into one table only where protocols agree."""

from __future__ import annotations

import json

import pytest

from pyro_pcflow.metrics import Report


def test_json_round_trip(report, tmp_path):
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert path.read_text() == text
    for source in (text, path, str(path)):
        assert Report.from_json(source) == report
    content = json.loads(text)
    assert content["schema"] == "pyro-pcflow report"
    assert content["metrics"]["cov-cd"]["mean"] == report["cov-cd"]
    with pytest.raises(FileExistsError):
        report.to_json(path)
    assert Report.from_json(text).protocol.seeds == (0, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-9], "not JSON"),
        (lambda text: "{}", "not a report"),
        (lambda text: text.replace('"version": 1', '"version": 2', 1), "version 2 of the schema, expected 1"),
        (lambda text: text.replace('"split"', '"parting"'), r"missing \['split'\], unknown \['parting'\]"),
        (lambda text: text.replace('"failed"', '"broken"'), "a field is missing"),
    ],
)
def test_json_errors(report, change, words):
    with pytest.raises(ValueError, match=words):
        Report.from_json(change(report.to_json()))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        Report.from_json(tmp_path / "none.json")
