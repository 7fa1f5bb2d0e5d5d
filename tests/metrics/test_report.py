"""Reports: kept as JSON, read as Markdown, and put into one table only where protocols agree."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.metrics import LogLikelihood, NullBand, Protocol, Report, compare, evaluate


def clouds(seed, count=5):
    return torch.randn(count, 12, 3, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def report():
    likelihood = LogLikelihood(torch.tensor([10.0, 14.0]), 2, "exact", "metres")
    return evaluate(
        torch.stack([clouds(1), clouds(2)]),
        clouds(3),
        train=clouds(4, 8),
        name="ours",
        data="noise | x",
        split="test",
        units="metres",
        likelihood=likelihood,
    )


def test_protocol(report):
    protocol = report.protocol
    assert (protocol.data, protocol.split, protocol.units) == ("noise | x", "test", "metres")
    content = clouds(3).numpy().tobytes()
    assert protocol.sha256 == hashlib.sha256(b"float32 5x12x3\n" + content).hexdigest()
    assert protocol.versions == {"pyro_pcflow": pcf.__version__, "torch": torch.__version__, "numpy": np.__version__}
    assert protocol.grid["resolution"] == 28
    assert len(protocol.grid["low"]) == 3


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


def test_markdown_has_all_numbers_and_the_protocol(report):
    page = report.to_markdown()
    accuracy = f"{100 * report['1-nna-cd']:.1f}% ± {100 * report.std('1-nna-cd'):.1f}"
    assert f"| 1-NNA cd | {accuracy} |" in page
    assert "not finite or too large: 0 of 10." in page
    assert (
        "Held-out likelihood: 6.000 ± 1.000 (standard error) nats per point (exact), with coordinates in metres."
        in page
    )
    assert report.protocol.sha256 in page
    assert report.train_sha256 in page
    assert "noise \\| x" in page
    table = [line for line in page.splitlines() if line.startswith("| 1-NNA")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in table)


def test_table_of_one_protocol(report):
    other = dataclasses.replace(report, name="theirs", likelihood=None)
    lines = compare([report, other]).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    assert [row[0].strip("| ") for row in rows] == [
        "samples",
        "ours",
        "theirs",
        "*training set*",
        "*one distribution* (ours)",
    ]
    assert rows[1][-2:] == ["6.000 (exact)", "0 of 10 |"]
    assert rows[2][-2:] == ["none", "0 of 10 |"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "other"),
        ("sha256", "0" * 64),
        ("num_points", 99),
        ("normalization", "per_cloud"),
        ("units", "inches"),
        ("seeds", (5, 6)),
        ("versions", {"torch": "0.1"}),
        ("grid", {"resolution": 5}),
    ],
)
def test_different_protocols_are_refused_by_name(report, field, value):
    other = dataclasses.replace(report, protocol=dataclasses.replace(report.protocol, **{field: value}))
    with pytest.raises(ValueError, match=rf"cannot share a table: {field} \("):
        compare([report, other])
    table = compare([report, other], allow_different=True)
    assert table.startswith(f"**Not comparable: different protocols.** {field} (")


def test_every_field_of_the_protocol_counts(report):
    names = {field.name for field in dataclasses.fields(Protocol)}
    assert names == set(report.protocol.differences(Protocol(*["?"] * len(names))))


def test_protocols_of_one_content_agree(report):
    assert report.protocol.differences(Protocol.from_dict(json.loads(json.dumps(report.protocol.to_dict())))) == {}


def test_bands_have_both_ends(report):
    band = NullBand(0.5, 0.25, 0.875)
    shown = dataclasses.replace(report, null=dict.fromkeys(report.null, band))
    for text in (shown.to_markdown(), compare([shown])):
        assert text.count("25.0 to 87.5%") == len(report.null) == 3


def test_failures_are_counted_over_all_draws(report):
    assert "3 of 10" in dataclasses.replace(report, failed=(1, 2)).to_markdown()


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="at least one"):
        compare([])
