"""`pcflow evaluate`, with runs and with anyone's samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_pcflow as pcf
from pyro_pcflow.cli import main
from pyro_pcflow.metrics import Report


@pytest.fixture
def folder(tmp_path):
    """References with splits, and samples of several makers."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(24, 1, 3)) + 0.2 * generator.normal(size=(24, 40, 3))
    split = np.array(["train"] * 15 + ["test"] * 9)
    np.savez(tmp_path / "kind.npz", points=points.astype(np.float32), split=split)
    np.savez(tmp_path / "clouds.npz", points=points[:9].astype(np.float32), ids=np.arange(9))
    np.savez(tmp_path / "single.npz", samples=points[:9])
    np.savez(tmp_path / "two.npz", a=points, b=points)
    np.save(tmp_path / "clouds.npy", points[:9])
    np.save(tmp_path / "draws.npy", points[:18].reshape(2, 9, 40, 3).astype(np.float32))
    np.save(tmp_path / "one.npy", points[0])
    broken = points[:9].copy()
    broken[4, 7, 1] = np.nan
    np.save(tmp_path / "broken.npy", broken)
    (tmp_path / "text.npy").write_text("nothing")
    (tmp_path / "text.txt").write_text("1 2 3")
    return tmp_path


def command(folder, samples, *options):
    paths = [str(folder / samples), "--reference", str(folder / "kind.npz"), "--out", str(folder / "new" / "report")]
    return ["evaluate", *paths, "--num-points", "40", "--device", "cpu", *options]


@pytest.mark.parametrize("samples", ["clouds.npz", "single.npz", "clouds.npy"])
def test_samples_of_others(samples, folder, capsys, request):
    if samples != "clouds.npz":
        request.getfixturevalue("no_sheet")
    assert main(command(folder, samples, "--split", "test", "--train", str(folder / "kind.npz"))) == 0
    out = folder / "new" / "report"
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "sheet.png"}
    report = Report.from_json(out / "report.json")
    references = pcf.data.load_clouds(folder / "kind.npz", 40, split="test")
    given = np.load(folder / "clouds.npy").astype(np.float32)
    expected = pcf.metrics.evaluate(given, references)
    assert report["mmd-cd"] == pytest.approx(expected["mmd-cd"], rel=1e-6)
    assert (report.name, report.protocol.data, report.protocol.split) == (samples[:-4], "kind", "test")
    # The first nine of the training set are the samples: the training row is of any nine of fifteen.
    assert report.train["mmd-cd"][0] != expected["mmd-cd"]
    assert (out / "report.md").read_text().startswith(report.to_markdown())
    with Image.open(out / "sheet.png") as picture:
        assert picture.width > (1000 if samples == "clouds.npz" else 10)
    printed = capsys.readouterr().out
    assert f"COV cd        {report['cov-cd']:.1%}" in printed
    assert "failed samples: 0 of 9" in printed
    assert main(command(folder, samples)) == 2  # never overwritten


def test_draws_and_failures(folder, capsys, no_sheet):
    assert (
        main(command(folder, "draws.npy", "--split", "test", "--num-points", "30", "--distance", "chamfer", "emd")) == 0
    )
    report = Report.from_json(folder / "new" / "report" / "report.json")
    assert len(report.draws["cov-emd"]) == 2
    assert report.protocol.num_points == 30
    (folder / "new" / "report").rename(folder / "old")
    assert main(command(folder, "broken.npy", "--split", "test", "--cache", str(folder / "cache"))) == 0
    assert "failed samples: 1 of 9" in capsys.readouterr().out
    assert len(list((folder / "cache").iterdir())) == 3


def test_run_of_a_flow(folder, capsys, no_sheet):
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])
    clouds = pcf.data.load_clouds(folder / "kind.npz", 40)
    flow.normalize(clouds)
    (folder / "run").mkdir()
    pcf.save(flow, folder / "run" / "model.pt")
    assert main(command(folder, "run", "--split", "test", "--units", "metres", "--name", "flow")) == 0
    report = Report.from_json(folder / "new" / "report" / "report.json")
    assert len(report.draws["jsd"]) == 3
    held_out = pcf.data.load_clouds(folder / "kind.npz", 40, split="test")
    expected = flow.log_prob(held_out).mean().item()
    assert report.likelihood.nats_per_point == pytest.approx(expected, rel=1e-4)
    assert (report.likelihood.kind, report.likelihood.units, report.name) == ("exact", "metres", "flow")
    assert "nats per point of held-out clouds (exact)" in capsys.readouterr().out


def test_model_file_of_many_clouds(tmp_path, no_sheet):
    bodies = pcf.data.load_example("body", num_points=128, split="test")[:6]
    pcf.data.save_clouds(bodies, tmp_path / "bodies.npz")
    pcf.save(pcf.load_pretrained("body"), tmp_path / "body.pt")
    for particles, kind in [("4", "importance-weighted bound, K = 4"), ("0", None)]:
        out = tmp_path / f"report-{particles}"
        arguments = [
            "evaluate",
            str(tmp_path / "body.pt"),
            "--reference",
            str(tmp_path / "bodies.npz"),
            "--out",
            str(out),
        ]
        arguments += [
            "--num-points",
            "128",
            "--draws",
            "2",
            "--num-particles",
            particles,
            "--device",
            "cpu",
            "--up",
            "z",
        ]
        assert main(arguments) == 0
        report = Report.from_json(out / "report.json")
        assert (report.likelihood and report.likelihood.kind) == kind
        assert len(report.draws["jsd"]) == 2


def test_all_samples_failed(folder):
    np.save(folder / "none.npy", np.full((9, 40, 3), np.nan))
    assert main(command(folder, "none.npy", "--split", "test")) == 0
    assert Report.from_json(folder / "new" / "report" / "report.json").failed == (9,)


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        ("clouds.npy", ["--split", "all"], "samples: expected at least 24 clouds, got 9"),
        ("clouds.npy", ["--split", "val"], "no cloud with split 'val'"),
        ("clouds.npy", ["--split", "test", "--num-points", "41"], "give a lower --num-points"),
        ("one.npy", [], "expected numbers of shape (S, N, D)"),
        ("two.npz", [], "expected an array `points`, or a single one, got a, b"),
        ("text.npy", [], "can't be read"),
        ("text.txt", [], "expected a run folder, a model file (.pt), or samples"),
        ("nowhere", [], "nowhere"),
        ("nowhere.npy", [], "nowhere.npy"),
        ("clouds.npy", ["--distance", "l2"], "--distance: expected one of"),
        ("clouds.npy", ["--up", "w"], "up: expected"),
        ("clouds.npy", ["--split", "test", "--train", "nowhere.npz"], "nowhere.npz"),
        ("clouds.npy", ["--split", "test", "--normalization", "unit"], "--normalization: expected one of"),
    ],
)
def test_errors_are_one_line_and_leave_no_folder(samples, options, words, folder, capsys):
    assert main(command(folder, samples, *options)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("pcflow: ")
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (folder / "new").exists()


def test_clouds_of_two_coordinates(tmp_path):
    clouds = torch.randn(8, 30, 2)
    for name in ("samples", "references"):
        pcf.data.save_clouds(clouds + torch.rand(1), tmp_path / f"{name}.npz")
    paths = ["--reference", str(tmp_path / "references.npz"), "--out", str(tmp_path / "report")]
    assert main(["evaluate", str(tmp_path / "samples.npz"), *paths, "--num-points", "30"]) == 0


def test_a_folder_of_its_own_where_none_is_named(folder, monkeypatch, capsys, no_sheet):
    monkeypatch.chdir(folder)
    words = ["evaluate", "clouds.npy", "--reference", "kind.npz", "--split", "test", "--num-points", "40"]
    assert main(words) == 0
    assert (folder / "evaluation" / "clouds" / "report.json").exists()
    assert main(words) == 2
    assert "evaluation/clouds exists already and is not overwritten" in capsys.readouterr().err


@pytest.fixture
def called(monkeypatch):
    """What `evaluate` was called with, which then ends."""
    calls = []

    def evaluate(samples, references, **options):
        calls.append((samples, references, options))
        raise ValueError("enough")

    monkeypatch.setattr(pcf.metrics, "evaluate", evaluate)
    return calls


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (["--resolution", "9"], "grid", 9),
        ([], "grid", 28),
        (["--seed", "5"], "seed", 5),
        (["--num-clouds", "4"], "num_clouds", 4),
        ([], "num_clouds", None),
        (["--num-points", "21"], "num_points", 21),
        (["--draws", "2"], "draws", 2),
        ([], "draws", None),
        (["--distance", "emd", "hausdorff"], "distances", ["emd", "hausdorff"]),
        ([], "distances", ["chamfer"]),
        (["--normalization", "per_cloud"], "normalization", "per_cloud"),
        (["--name", "mine"], "name", "mine"),
        ([], "name", "clouds"),
        (["--units", "metres"], "data", pcf.metrics.DataDescription("kind", "test", "metres")),
        ([], "data", pcf.metrics.DataDescription("kind", "test")),
        (["--split", "train"], "data", pcf.metrics.DataDescription("kind", "train")),
        (["--split", "all"], "data", pcf.metrics.DataDescription("kind")),
        ([], "train", None),
        ([], "likelihood", None),
    ],
)
def test_each_option_reaches_the_metrics(options, name, value, folder, called):
    assert main(command(folder, "clouds.npy", *options)) == 2
    assert called[0][2][name] == value


def test_the_cache_and_the_device(folder, called, monkeypatch):
    from pyro_pcflow.training import options as settings

    monkeypatch.setattr(settings, "as_device", lambda name: {"second": torch.device("meta")}[name])
    words = command(folder, "clouds.npy", "--cache", str(folder / "kept"))
    words[words.index("cpu")] = "second"
    assert main(words) == 2
    assert called[0][2]["path"] == folder / "kept"
    assert called[0][1].device.type == "meta"


@pytest.mark.parametrize(
    ("options", "split"),
    [([], "test"), (["--split", "test"], "test"), (["--split", "train"], "train"), (["--split", "all"], None)],
)
def test_the_clouds_that_are_compared(options, split, folder, called, capsys):
    """Of several splits the test part, and of the training set always the train part."""
    train = folder / "kind.npz"
    assert main(command(folder, "clouds.npy", "--train", str(train), "--seed", "3", *options)) == 2
    samples, references, given = called[0]
    assert np.array_equal(samples, np.load(folder / "clouds.npy"))
    assert torch.equal(references, pcf.data.load_clouds(folder / "kind.npz", 40, seed=3, split=split))
    assert torch.equal(given["train"], pcf.data.load_clouds(folder / "kind.npz", 40, seed=3, split="train"))
    assert ("taking test alone" in capsys.readouterr().err) == (options == [])


def test_a_training_set_without_splits_is_taken_whole(folder, called):
    assert main(command(folder, "clouds.npy", "--train", str(folder / "clouds.npz"))) == 2
    assert torch.equal(called[0][2]["train"], pcf.data.load_clouds(folder / "clouds.npz", 40))


@pytest.mark.parametrize(("options", "draws"), [([], 3), (["--draws", "5"], 5)])
def test_draws_of_a_model(options, draws, folder, models, called):
    assert main(command(folder, models["flow"], *options)) == 2
    samples, _, given = called[0]
    assert given["draws"] == draws
    assert samples(2, 7).shape == (2, 7, 3)
    assert given["likelihood"].kind == "exact"


@pytest.mark.parametrize(
    ("options", "kind"), [([], "importance-weighted bound, K = 64"), (["--num-particles", "0"], None)]
)
def test_particles_of_a_model_of_many_clouds(options, kind, folder, models, called):
    assert main(command(folder, models["vae"], *options)) == 2
    likelihood = called[0][2]["likelihood"]
    assert (likelihood and likelihood.kind) == kind


def test_the_camera_of_the_sheet(folder, monkeypatch):
    from matplotlib.figure import Figure

    from pyro_pcflow.cli import sheet

    cameras = []
    monkeypatch.setattr(sheet, "neighbour_sheet", lambda _, **camera: cameras.append(camera) or Figure(figsize=(1, 1)))
    assert main(command(folder, "clouds.npy", "--up", "z", "--azim", "12.5")) == 0
    assert cameras == [{"up": "z", "azim": 12.5}]


def test_a_result_as_json(folder, capsys, no_sheet):
    assert main(command(folder, "clouds.npz", "--split", "test", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    out = folder / "new" / "report"
    assert (found["out"], found["files"]) == (str(out), ["report.json", "report.md", "sheet.png"])
    assert found["report"]["metrics"] == json.loads((out / "report.json").read_text())["metrics"]
