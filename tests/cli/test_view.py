"""`pcflow view`: what is on the page, and whether it is opened."""

from __future__ import annotations

import csv
import json
import re
import webbrowser
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest

from pyro_pcflow import plotting
from pyro_pcflow.cli import main


@pytest.fixture
def opened(monkeypatch):
    """Addresses that a browser was asked for."""
    pages = []
    monkeypatch.setattr(webbrowser, "open", lambda address: pages.append(address) or True)
    return pages


@pytest.fixture
def options_of_pages():
    """With which options."""
    return []


@pytest.fixture
def shown(monkeypatch, options_of_pages):
    """Clouds that were put on a page."""
    calls = []
    view_clouds = plotting.view_clouds

    def view(clouds, **options):
        calls.append(clouds)
        options_of_pages.append(options)
        return view_clouds(clouds, **options)

    monkeypatch.setattr(plotting, "view_clouds", view)
    return calls


def test_a_file_in_the_browser(tmp_path, opened, shown):
    points = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    np.save(tmp_path / "two.npy", points)
    assert main(["view", str(tmp_path / "two.npy"), "--num-points", "40"]) == 0
    (page,) = [Path(unquote(urlparse(address).path)) for address in opened]
    assert page.suffix == ".html"
    assert page.read_text().startswith("<!DOCTYPE html>")
    (clouds,) = shown
    assert [cloud.shape for cloud in clouds.values()] == [(40, 3), (40, 3)]
    assert {*map(tuple, clouds["two.npy"].tolist())} <= {*map(tuple, points[0].tolist())}


def test_a_page_that_is_kept_and_never_overwritten(tmp_path, opened, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(50, 3)))
    words = ["view", str(tmp_path / "a.npy"), "--out", str(tmp_path / "new" / "page.html")]
    assert main([*words, "--no-open", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"out": words[-1], "clouds": ["a.npy"], "points": [50], "opened": False}
    assert not opened
    before = Path(words[-1]).read_bytes()
    assert main(words) == 2
    assert Path(words[-1]).read_bytes() == before
    assert not opened


def test_no_browser(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(50, 3)))
    assert main(["view", str(tmp_path / "a.npy"), "--out", str(tmp_path / "page.html")]) == 0
    assert f"no browser was found: open {tmp_path / 'page.html'} in one" in capsys.readouterr().err


def test_the_first_clouds_of_a_folder(tmp_path, opened, shown, capsys):
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(50, 3)))
    assert main(["view", str(tmp_path), "--num-clouds", "3"]) == 0
    assert [*shown[0]] == ["0.npy", "1.npy", "2.npy"]
    assert "holds 1 clouds or more beside the first 3" in capsys.readouterr().err


def test_map_coordinates_keep_their_shape(tmp_path, opened, shown):
    offsets = np.random.default_rng(0).uniform(size=(50, 3))
    np.save(tmp_path / "map.npy", np.array([701362.0, 4485513.0, 40.0]) + offsets)
    assert main(["view", str(tmp_path / "map.npy")]) == 0
    cloud = shown[0]["map.npy"]
    assert cloud.dtype == np.float32
    assert np.allclose(cloud - cloud.mean(0), offsets - offsets.mean(0), atol=1e-6)


def test_a_run_beside_the_picture_of_its_training(models, tmp_path, opened, shown):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.pt").write_bytes(models["flow"].read_bytes())
    words = ["view", str(run), "--num-points", "60", "--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "a.html")]) == 0
    assert "<img" not in (tmp_path / "a.html").read_text()
    (run / "samples.png").write_bytes(b"a picture")
    assert main([*words, str(tmp_path / "b.html")]) == 0
    text = (tmp_path / "b.html").read_text()
    assert re.search(r'<img alt="samples.png" src="data:image/png;base64,YSBwaWN0dXJl">', text)
    assert 'sandbox="allow-scripts"' in text
    assert [[*clouds] for clouds in shown] == [["sample"], ["sample"]]
    assert shown[0]["sample"].shape == (60, 3)


def test_a_model_with_classes(models, tmp_path, opened, shown):
    words = ["view", str(models["classes"]), "--num-points", "60", "--num-clouds", "2", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "a.html")]) == 2
    assert main([*words, "--label", "1", "--out", str(tmp_path / "a.html")]) == 0
    assert [*shown[0]] == ["sample 1", "sample 2"]


def test_labels_of_a_file(tmp_path, capsys, opened):
    np.save(tmp_path / "a.npy", np.zeros((50, 3)))
    assert main(["view", str(tmp_path / "a.npy"), "--label", "1"]) == 2
    assert "holds clouds" in capsys.readouterr().err


def test_colours_are_the_scores_of_points(models, tmp_path, opened, shown, options_of_pages):
    points = np.random.default_rng(0).normal(size=(50, 3))
    np.savetxt(tmp_path / "a.csv", points, delimiter=",", header="x,y,z", comments="")
    scored = tmp_path / "scored"
    for suffix in (".ply", ".csv"):
        words = ["score", str(models["flow"]), str(tmp_path / "a.csv"), "--out", str(scored.with_suffix(suffix))]
        assert main([*words, "--device", "cpu"]) == 0
        assert main(["view", str(scored.with_suffix(suffix))]) == 0
    with open(scored.with_suffix(".csv")) as file:
        scores = np.array([float(row["log_density"]) for row in csv.DictReader(file)])
    assert np.ptp(scores) > 0
    for clouds, options in zip(shown, options_of_pages, strict=True):
        (name,) = clouds
        assert np.allclose(clouds[name], points, atol=1e-5)
        assert np.allclose(options["colors"][name], scores, rtol=1e-6)
        assert options["color_label"] == "log_density, nats"


def test_colours_of_a_column(tmp_path, opened, shown, options_of_pages, capsys):
    table = np.random.default_rng(0).normal(size=(50, 4))
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header="x,y,z,h", comments="")
    np.save(tmp_path / "b.npy", table)
    assert main(["view", str(tmp_path / "a.csv")]) == 0
    assert main(["view", str(tmp_path), "--include", "*.npy", "--color", "4", "--num-points", "20"]) == 0
    assert options_of_pages[0]["colors"] == {"a.csv": None}
    colors = options_of_pages[1]["colors"]["b.npy"]
    assert len(colors) == 20
    places = {tuple(row[:3].astype(np.float32)): row[3] for row in table}
    for point, color in zip(shown[1]["b.npy"], colors, strict=True):
        assert places[tuple(point)] == pytest.approx(color)
    assert main(["view", str(tmp_path / "a.csv"), "--color", "intensity"]) == 2
    assert "no column 'intensity'" in capsys.readouterr().err


def test_samples_have_no_columns(models, tmp_path, opened, capsys):
    assert main(["view", str(models["flow"]), "--color", "intensity"]) == 2
    assert "holds a model" in capsys.readouterr().err
    assert not opened
