"""Reports as pages and as rows of one table, only where protocols agree."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from pyro_pcflow.metrics import PermutationInterval, compare


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
    lines = str(compare([report, other])).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    assert [row[0].strip("| ") for row in rows] == [
        "samples",
        "ours",
        "theirs",
        "*training set*",
        "*one distribution (ours)*",
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
    assert table.to_markdown().startswith(f"**Not comparable: different protocols.** {field} (")


def test_intervals_have_both_ends(report):
    interval = PermutationInterval(0.5, 0.25, 0.875)
    shown = dataclasses.replace(report, null=dict.fromkeys(report.null, interval))
    for text in (shown.to_markdown(), str(compare([shown]))):
        assert text.count("25.0 to 87.5%") == len(report.null) == 3


def test_failures_are_counted_over_all_draws(report):
    assert "3 of 10" in dataclasses.replace(report, failed=(1, 2)).to_markdown()


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="at least one"):
        compare([])


def test_a_row_per_report_in_csv(report, tmp_path):
    other = dataclasses.replace(report, name='the "other", one', likelihood=None, failed=(1, 2))
    path = tmp_path / "table.csv"
    text = compare([report, other]).to_csv(path)
    assert path.read_text() == text
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["samples"] for row in rows] == ["ours", 'the "other", one', "training set"]
    for key in report:
        unit = " (%)" if key.startswith(("1-nna", "cov")) else ""
        factor = 100 if unit else 1
        for row, draws in zip(rows, (report.draws, report.draws, report.train), strict=True):
            assert float(row[key + unit]) == pytest.approx(factor * np.mean(draws[key]), rel=1e-9)
            assert float(row[f"{key} std{unit}"]) == pytest.approx(
                factor * np.std(draws[key], ddof=1), rel=1e-9, abs=1e-12
            )
    assert [row["nats per point"] for row in rows] == ["6", "", ""]
    assert [row["nats per point, kind"] for row in rows] == ["exact", "", ""]
    assert [row["failed"] for row in rows] == ["0", "3", ""]
    with pytest.raises(FileExistsError):
        compare([report]).to_csv(path)


def test_one_draw_has_no_deviations_in_csv(report):
    one = dataclasses.replace(report, draws={key: draws[:1] for key, draws in report.draws.items()}, train={})
    head, row = list(csv.reader(one.to_csv().splitlines()))
    assert not [title for title in head if "std" in title]
    assert float(row[head.index("mmd-cd")]) == pytest.approx(one["mmd-cd"], rel=1e-9)


def test_latex_has_the_rows_of_the_table(report):
    other = dataclasses.replace(report, name="50%_of & more")
    lines = compare([report, other]).to_latex().splitlines()
    rules = [index for index, line in enumerate(lines) if line == r"\midrule"]
    assert len(rules) == 2
    assert lines[rules[0] + 2].startswith(r"50\%\_of \& more & ")
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if " & " in line.replace(r"\& ", "")]
    assert {len(row) for row in rows if not row[0].startswith("50")} == {len(report) + 3}
    title, ours = rows[0], rows[1]
    assert title[1] == r"1-NNA cd (\%)"
    value, deviation = report["1-nna-cd"], report.std("1-nna-cd")
    assert ours[1] == rf"{100 * value:.1f} $\pm$ {100 * deviation:.1f}"
    null = report.null["1-nna-cd"]
    assert rows[-1][:2] == ["one distribution (ours)", f"{100 * null.low:.1f}--{100 * null.high:.1f}"]
    assert report.to_latex().splitlines()[5] == lines[5]


def test_a_notebook_shows_numbers_and_escapes_names(report):
    shown = dataclasses.replace(report, name="<script>")
    for page in (shown._repr_html_(), compare([shown])._repr_html_()):
        assert "<script>" not in page
        assert "&lt;script&gt;" in page
        assert f"{100 * report['cov-cd']:.1f}%" in page
    assert report.protocol.sha256 in shown._repr_html_()


def test_keys_choose_metrics_and_their_order(report):
    table = compare([report], keys=["mmd-cd", "1-nna-cd"])
    assert table.keys == ("samples", "mmd-cd", "1-nna-cd", "nats per point", "failed")
    assert [note.split(":")[0] for note in table.notes] == ["1-NNA", "MMD"]
    full = list(csv.DictReader(compare([report]).to_csv().splitlines()))
    for row, whole in zip(csv.DictReader(table.to_csv().splitlines()), full, strict=True):
        assert row == {key: whole[key] for key in row}
    with pytest.raises(ValueError, match="keys: expected one of '1-nna-cd'"):
        compare([report], keys=["cd"])
