"""`pcflow train`: which points are trained on, and which are held out."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.cli import main, train
from pyro_pcflow.training import toml

TINY = ["--num-couplings", "2", "--hidden-dims", "8", "--max-steps", "2", "--device", "cpu"]


@pytest.fixture
def fitted(monkeypatch):
    """What `fit` was called with, which then ends."""
    calls = []

    def fit(module, data, **options):
        calls.append((module, data, options))
        raise ValueError("enough")

    monkeypatch.setattr(pcf.training, "fit", fit)
    return calls


def numbered(count, dim=3):
    return np.arange(count * dim, dtype=np.float32).reshape(count, dim)


def sphere(count, seed):
    """Points near a sphere, of a density that is known."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return directions + 0.1 * torch.randn(count, 3, generator=generator)


@pytest.mark.parametrize("count", [100, 300, 1000])
def test_the_reported_score_is_that_of_points_never_seen(count, tmp_path, capsys, no_pictures):
    """It is the mean of a tenth of the scan: as likely as means of so many fresh points."""
    pcf.data.save_clouds(sphere(count, seed=1).unsqueeze(0), tmp_path / "scan.xyz")
    run = tmp_path / "run"
    words = ["--max-steps", "120", "--num-couplings", "6", "--hidden-dims", "32", "--lr", "0.02", "--noise", "0"]
    assert main(["train", str(tmp_path / "scan.xyz"), "--out", str(run), *words, "--device", "cpu"]) == 0
    reported = float(capsys.readouterr().out.split()[0])
    with torch.no_grad():
        scores = pcf.load(run / "model.pt").log_prob(sphere(20_000, seed=2))
    # Such a short scan is overfitted, which few points pay for with much: no normal distribution.
    chosen = torch.randint(len(scores), (2_000_000 // count, count // 10), generator=torch.Generator().manual_seed(0))
    low, high = scores[chosen].mean(-1).quantile(torch.tensor([0.0005, 0.9995]))
    assert low < reported < high


@pytest.mark.parametrize("name", ["scan.xyz", "scan.npz", "scan.npy"])
def test_a_scan_is_trained_on_each_of_its_points_once(name, tmp_path, fitted):
    points = 0.5 + numbered(3000)
    pcf.data.save_clouds(torch.from_numpy(points).unsqueeze(0), tmp_path / name)
    assert main(["train", str(tmp_path / name), "--out", str(tmp_path / "run")]) == 2
    ((module, data, options),) = fitted
    assert type(module) is pcf.PointCloudFlow
    assert np.array_equal(data.numpy(), points)
    assert options["noise"] == "auto"


@pytest.mark.parametrize(("asked", "taken"), [(50, 50), (200, 120)])
def test_num_points_is_the_most_of_each_cloud(asked, taken, tmp_path, fitted):
    clouds = numbered(240).reshape(2, 120, 3)
    np.save(tmp_path / "two.npy", clouds)
    assert main(["train", str(tmp_path / "two.npy"), "--out", str(tmp_path / "r"), "--num-points", str(asked)]) == 2
    ((_, data, _),) = fitted
    assert data.shape == (2 * taken, 3)
    assert len(data.unique(dim=0)) == len(data)
    assert {*map(tuple, data.tolist())} <= {*map(tuple, clouds.reshape(-1, 3).tolist())}


def test_clouds_of_different_sizes_are_pooled(tmp_path, fitted):
    for name, count in {"a": 10, "b": 70}.items():
        np.save(tmp_path / f"{name}.npy", numbered(count))
    (tmp_path / "cow.obj").write_bytes(pcf.data.example_path("spot").read_bytes())
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "r"), "--seed", "3"]) == 2
    ((_, data, options),) = fitted
    assert data.shape == (10 + 70 + train.POINTS_OF_ONE, 3)
    assert np.array_equal(data[:10].numpy(), numbered(10))
    expected = pcf.data.load_clouds(tmp_path / "cow.obj", train.POINTS_OF_ONE, seed=3)[0]
    assert torch.equal(data[80:], expected)
    assert options["seed"] == 3


def test_many_clouds_of_different_sizes_keep_their_points(tmp_path, fitted, monkeypatch):
    monkeypatch.setattr(train, "POINTS_OF_MANY", 25)
    sizes = [10 + number for number in range(20)]
    for number, size in enumerate(sizes):
        np.save(tmp_path / f"{number:02}.npy", numbered(size))
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "r")]) == 2
    ((module, data, options),) = fitted
    assert type(module) is pcf.PointCloudVAE
    assert [len(cloud) for cloud in data] == [min(size, 25) for size in sizes]
    assert all(len(cloud.unique(dim=0)) == len(cloud) for cloud in data)
    assert options["noise"] == "auto"


def test_clouds_of_different_sizes_are_trained_on(tmp_path, no_pictures, capsys):
    for number in range(20):
        np.save(tmp_path / f"{number:02}.npy", np.random.default_rng(number).normal(size=(20 + number, 3)))
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "r"), *TINY]) == 0
    assert re.search(r"bound on held-out clouds, with noise 0\.[0-9]+, after 2 steps", capsys.readouterr().out)


def pc15k(root):
    """A folder as PointFlow lays it out."""
    for number, name in enumerate(["train/a", "train/b", "val/c", "test/d"]):
        path = root / "03001627" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((15000, 3), number) + np.random.default_rng(number).uniform(-0.1, 0.1, (15000, 3)))
    return root


def npz(root):
    points = np.arange(4).reshape(4, 1, 1) + np.random.default_rng(0).uniform(-0.1, 0.1, (4, 50, 3))
    np.savez(root / "kind.npz", points=points, split=["train", "train", "val", "test"])
    return root / "kind.npz"


@pytest.mark.parametrize("make", [pc15k, npz])
@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ([], [0, 1]),
        (["--split", "train"], [0, 1]),
        (["--split", "val"], [2]),
        (["--split", "test"], [3]),
        (["--split", "all"], [0, 1, 2, 3]),
    ],
)
def test_the_train_part_alone_unless_another_is_named(make, options, shapes, tmp_path, fitted, capsys):
    path = make(tmp_path)
    assert main(["train", str(path), "--out", str(tmp_path / "run"), *options]) == 2
    ((_, data, _),) = fitted
    assert data.mean(-1).round().unique().tolist() == shapes
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "pcflow: enough"
    if options:
        assert len(told) == 1
    else:
        words = "holds the splits train, val and test: taking train alone; --split names another, or all"
        assert told[0] == f"pcflow: {path} {words}"


def test_one_split_is_no_choice(tmp_path, fitted, capsys):
    root = pc15k(tmp_path)
    assert main(["train", str(root / "03001627" / "test"), "--out", str(tmp_path / "run")]) == 2
    assert fitted[0][1].shape == (15000, 3)
    assert capsys.readouterr().err == "pcflow: enough\n"


def test_several_splits_and_no_train(tmp_path, fitted, capsys):
    np.savez(tmp_path / "kind.npz", points=numbered(40).reshape(2, 20, 3), split=["val", "mine"])
    assert main(["train", str(tmp_path / "kind.npz"), "--out", str(tmp_path / "run")]) == 2
    assert "holds the splits val and mine: name one with --split, or take them together with all" in (
        capsys.readouterr().err
    )
    assert main(["train", str(tmp_path / "kind.npz"), "--out", str(tmp_path / "run"), "--split", "mine"]) == 2
    assert torch.equal(fitted[0][1], torch.from_numpy(numbered(40)[20:]))


def test_the_train_part_of_the_embedded_bodies(tmp_path, fitted, capsys):
    words = ["train", "--model", "vae", "--num-points", "30", "--seed", "2", "--out", str(tmp_path / "run")]
    for options, split in [([], "train"), (["--split", "test"], "test"), (["--split", "all"], None)]:
        assert main([*words, *options]) == 2
        assert torch.equal(fitted[-1][1], pcf.data.load_example("body", 30, split=split, seed=2))
        assert ("taking train alone; --split names another" in capsys.readouterr().err) == (options == [])
    assert main(["train", "--split", "test", "--out", str(tmp_path / "run")]) == 2
    assert "the embedded cow is one shape and has no splits" in capsys.readouterr().err


def test_files_that_are_passed_over_are_told_in_one_line(tmp_path, fitted, capsys):
    np.save(tmp_path / "a.npy", numbered(30))
    (tmp_path / "scan.fbx").write_text("of another format")
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"pcflow: {tmp_path}: 1 file was passed over, whose endings are not known: scan.fbx; known")
    assert last == "pcflow: enough"


@pytest.mark.parametrize("count", [train.MANY_CLOUDS, 70])
def test_a_large_file_stays_where_it_is(tmp_path, fitted, count):
    np.save(tmp_path / "kind.npy", np.random.default_rng(0).normal(size=(count, 12, 3)).astype(np.float32))
    assert main(["train", str(tmp_path / "kind.npy"), "--out", str(tmp_path / "run")]) == 2
    ((_, data, options),) = fitted
    assert isinstance(data, pcf.data.MappedClouds)
    assert options["noise"] == "auto"


def test_points_of_two_dimensions_in_one_folder(tmp_path, fitted, capsys):
    np.save(tmp_path / "a.npy", numbered(30))
    np.save(tmp_path / "b.npy", numbered(30, dim=2))
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "b.npy: points of 2 coordinates, but those before have 3" in capsys.readouterr().err
    assert not fitted


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (["--max-steps", "7"], "max_steps", 7),
        (["--max-steps", "7"], "max_seconds", None),
        (["--max-seconds", "8.5"], "max_seconds", 8.5),
        (["--max-seconds", "8.5"], "max_steps", None),
        ([], "max_seconds", 60.0),
        (["--batch-size", "9"], "batch_size", 9),
        ([], "batch_size", None),
        (["--lr", "0.25"], "lr", 0.25),
        (["--seed", "11"], "seed", 11),
        (["--resume"], "resume", True),
        ([], "resume", False),
        (["--device", "cpu"], "device", "cpu"),
    ],
)
def test_each_option_reaches_the_training(options, name, value, tmp_path, fitted):
    np.save(tmp_path / "a.npy", numbered(30))
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "a.npy"), "--out", out, *options]) == 2
    assert fitted[0][2][name] == value
    assert fitted[0][2]["out"] == out


@pytest.mark.parametrize("up", ["y", "z"])
def test_the_upright_axis_reaches_the_pictures(up, tmp_path, fitted):
    np.save(tmp_path / "a.npy", numbered(30))
    assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), "--up", up]) == 2
    assert fitted[0][2]["logging"].pictures.up == up


def test_noise_as_a_number_is_a_share_of_the_largest_cloud_of_many(tmp_path, fitted):
    """Wherever it stands, and not of the first."""
    clouds = torch.linspace(0.5, 1, 16).reshape(-1, 1, 1) * torch.randn(16, 120, 3)
    pcf.data.save_clouds(clouds, tmp_path / "kind.npy")
    assert main(["train", str(tmp_path / "kind.npy"), "--out", str(tmp_path / "run"), "--noise", "0.5"]) == 2
    assert fitted[0][2]["noise"] == pytest.approx(0.5 * pcf.data.half_extent(clouds), rel=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_noise_is_a_share_of_the_half_extent(noise, tmp_path, fitted):
    np.save(tmp_path / "a.npy", np.array([[0, 0, 0], [2, 8, 4], [1, 1, 1]]))
    assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), "--noise", str(noise)]) == 2
    assert fitted[0][2]["noise"] == 4 * noise


@pytest.mark.parametrize("model", ["flow", "vae"])
def test_couplings_and_widths(model, tmp_path, fitted):
    np.save(tmp_path / "a.npy", numbered(30).reshape(1, 30, 3))
    words = ["--model", model, "--num-couplings", "3", "--hidden-dims", "5", "6"]
    assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), *words]) == 2
    config = fitted[0][0].config
    config = config if model == "flow" else config["decoder"]
    assert (config["num_couplings"], list(config["hidden_dims"])) == (3, [5, 6])


def test_a_seed_decides_the_weights(tmp_path, fitted):
    np.save(tmp_path / "a.npy", numbered(30))
    weights = []
    for seed in ("0", "0", "1"):
        torch.seed()  # as random as that of a new process
        assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), "--seed", seed]) == 2
        weights.append(torch.cat([parameter.flatten() for parameter in fitted[-1][0].parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("options", "lr"),
    [
        (["--model", "flow"], None),
        ([], None),
        (["--preset", "nice"], None),
        (["--preset", "nice", "--lr", "0.5"], 0.5),
    ],
)
def test_each_kind_has_its_learning_rate(options, lr, tmp_path, fitted):
    """None: a module says its own."""
    pcf.data.save_clouds(torch.randn(16, 120, 3), tmp_path / "kind.npz")
    assert main(["train", str(tmp_path / "kind.npz"), "--out", str(tmp_path / "run"), *options]) == 2
    assert fitted[0][2]["lr"] == lr
    latent_dim = getattr(fitted[0][0], "latent_dim", None)
    assert latent_dim == (None if "flow" in options else 128 if "nice" in options else 64)


@pytest.mark.parametrize(
    ("count", "model", "kind"),
    [
        (15, "auto", pcf.PointCloudFlow),
        (16, "auto", pcf.PointCloudVAE),
        (16, "flow", pcf.PointCloudFlow),
        (2, "vae", pcf.PointCloudVAE),
    ],
)
@pytest.mark.parametrize("name", ["kind.npz", "kind.npy"])
def test_few_clouds_are_pooled_and_many_get_a_model(count, model, kind, name, tmp_path, fitted):
    clouds = torch.randn(count, 12, 3)
    pcf.data.save_clouds(clouds, tmp_path / name)
    assert main(["train", str(tmp_path / name), "--out", str(tmp_path / "run"), "--model", model]) == 2
    module, data, _ = fitted[0]
    assert type(module) is kind
    data = data.read(torch.arange(count)) if isinstance(data, pcf.data.MappedClouds) else data
    assert torch.equal(data, clouds if kind is pcf.PointCloudVAE else clouds.flatten(end_dim=1))


def test_a_run_of_many_clouds(tmp_path, capsys, no_pictures):
    """From a file to samples."""
    clouds = 5 + torch.linspace(0.5, 1, 16).reshape(-1, 1, 1) * torch.randn(16, 120, 3)
    pcf.data.save_clouds(clouds, tmp_path / "kind.npy")
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "kind.npy"), "--out", str(run), *TINY]) == 0
    assert re.search(r"bound on held-out clouds, with noise 0\.[0-9]+, after 2 steps", capsys.readouterr().out)
    data = toml.loads((run / "config.toml").read_text())["data"]
    assert 0 < data["noise"] < 1
    assert pcf.load(run / "model.pt").config["decoder"]["num_couplings"] == 2
    assert main(["sample", str(run), "--num-clouds", "3", "--num-points", "50", "--out", str(tmp_path / "a.npy")]) == 0
    drawn = np.load(tmp_path / "a.npy")
    assert drawn.shape == (3, 50, 3)
    assert abs(drawn.mean() - 5) < 1


@pytest.mark.parametrize(
    ("model", "words", "expected"),
    [
        ("flow", ["num_couplings=3", "hidden_dims=[5,6]"], {"num_couplings": 3, "hidden_dims": [5, 6]}),
        ("flow", ["masks=halves", "conditioning=bias"], {"masks": "halves", "conditioning": "bias"}),
        ("flow", ["separate_networks=true"], {"separate_networks": True}),
        ("flow", ["separate_networks=False"], {"separate_networks": False}),
        ("vae", ["latent_dim=3", "prior=normal"], {"latent_dim": 3, "prior": "normal"}),
    ],
)
def test_any_option_of_a_model_can_be_set(model, words, expected, tmp_path, fitted):
    np.save(tmp_path / "a.npy", numbered(60).reshape(2, 30, 3))
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "a.npy"), "--out", out, "--model", model, "--set", *words]) == 2
    config = {name: list(v) if isinstance(v, tuple) else v for name, v in fitted[0][0].config.items()}
    assert {name: config[name] for name in expected} == expected


def test_options_of_a_part_of_a_model(tmp_path, fitted):
    np.save(tmp_path / "a.npy", numbered(60).reshape(2, 30, 3))
    words = ["--model", "vae", "--num-couplings", "3", "--set", "decoder.hidden_dims=[5]", "latent_dim=2"]
    words += ["--set", "decoder.masks=halves", "prior_options.num_couplings=1"]
    assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), *words]) == 2
    config = fitted[0][0].config
    assert config["latent_dim"] == 2
    assert config["prior_options"]["num_couplings"] == 1
    decoder = config["decoder"]
    assert (decoder["num_couplings"], list(decoder["hidden_dims"]), decoder["masks"]) == (3, [5], "halves")


def test_options_of_the_training(tmp_path, fitted, capsys):
    np.save(tmp_path / "a.npy", numbered(30))
    words = ["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), "--set"]
    given = ["optimization.grad_clip=5", "sampling.target_points=64", "logging.eval_every=7", "masks=halves"]
    assert main([*words, *given]) == 2
    ((module, _, options),) = fitted
    assert module.config["masks"] == "halves"
    assert options["optimization"] == pcf.training.Optimization(grad_clip=5)
    assert options["sampling"] == pcf.training.CloudSampling(target_points=64)
    assert options["logging"].eval_every == 7
    assert isinstance(options["logging"].pictures, pcf.training.Pictures)
    for wrong, told in {
        "optimization.grad=5": "unexpected keyword argument 'grad'",
        "logging=5": "a mapping",
    }.items():
        capsys.readouterr()
        assert main([*words, wrong]) == 2
        assert told in capsys.readouterr().err


def categories(root, names=("chair", "table")):
    for name in names:
        for number in range(10):
            path = root / name / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.random.default_rng(number).normal(size=(30, 3)))
    return root


def test_categories_are_classes(tmp_path, fitted, capsys):
    root = categories(tmp_path / "data", ("table", "chair", "lamp"))
    assert main(["train", str(root), "--categories", "--out", str(tmp_path / "run")]) == 2
    ((module, (clouds, labels), _),) = fitted
    assert (type(module), module.num_classes) == (pcf.PointCloudVAE, 3)
    assert clouds.shape == (30, 30, 3)
    assert labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert "3 categories: 0 chair, 1 lamp, 2 table" in capsys.readouterr().err


def test_names_of_categories_are_kept(tmp_path, no_pictures, capsys):
    root, run = categories(tmp_path / "data"), tmp_path / "run"
    small = ["--set", "latent_dim=2", "encoder.point_dims=[8]", "encoder.hidden_dims=[8]"]
    words = ["train", str(root), "--categories", "--out", str(run), "--json", *TINY, *small]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["categories"] == ["chair", "table"]
    assert json.loads((run / train.CATEGORIES).read_text()) == ["chair", "table"]
    assert main([*words, "--resume", "--max-steps", "3"]) == 0
    assert main(["sample", str(run), "--label", "1", "--num-points", "9", "--out", str(tmp_path / "a.npy")]) == 0
    (root / "chair").rename(root / "stool")
    capsys.readouterr()
    assert main([*words, "--resume", "--max-steps", "4"]) == 2
    assert "has other categories than the data, which are 0 stool, 1 table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words", "told"),
    [
        (("chair",), [], "--categories: expected two or more, found chair"),
        ((".",), [], "lies in no folder of a category, and says no class"),
        (("chair", "table"), ["--set", "num_classes=3"], "--set num_classes=3: the data has 2 categories"),
    ],
)
def test_categories_that_are_none(names, words, told, tmp_path, fitted, capsys):
    root = categories(tmp_path / "data", names)
    assert main(["train", str(root), "--categories", "--out", str(tmp_path / "run"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not fitted


def test_points_that_are_left_out_are_not_made_up_for(tmp_path, fitted, capsys):
    """A point that is held out must not be trained on as well."""
    points = 0.5 + numbered(300)
    points[::10, 1] = np.nan
    np.save(tmp_path / "a.npy", points)
    assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), "--num-points", "290"]) == 2
    ((_, data, _),) = fitted
    assert len(data) == len(data.unique(dim=0)) == 270
    assert "points left out of 1 cloud: 30 NaN or infinite" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run"), "--refuse-nan"]) == 2
    told = capsys.readouterr().err
    assert "30 of 300 points are NaN" in told
    assert "drop_nan" not in told


def test_columns_and_features(tmp_path, fitted):
    rows = np.random.default_rng(0).normal(size=(50, 5))
    np.savetxt(tmp_path / "a.csv", rows, delimiter=",", header="t,E,N,H,intensity", comments="")
    words = ["train", str(tmp_path / "a.csv"), "--out", str(tmp_path / "run"), "--columns", "E,N,H"]
    assert main([*words, "--features", "intensity"]) == 2
    ((module, data, _),) = fitted
    assert module.point_dim == 4
    assert np.allclose(data.numpy(), rows[:, 1:])


def test_files_of_a_folder_that_are_meant(tmp_path, fitted):
    for name in ("a.npy", "b.npy", "sub/a.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, numbered(30))
    for words, count in {(): 90, ("--include", "a.npy"): 60, ("--no-subfolders",): 60}.items():
        assert main(["train", str(tmp_path), "--out", str(tmp_path / "run"), *words]) == 2
        assert len(fitted[-1][1]) == count


def test_map_coordinates_are_trained_on_in_double_precision(tmp_path, no_pictures, capsys):
    offsets = np.random.default_rng(0).uniform(size=(400, 3))
    np.save(tmp_path / "map.npy", np.array([701362.0, 4485513.0, 40.0]) + offsets)
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "map.npy"), "--out", str(run), *TINY]) == 0
    flow = pcf.load(run / "model.pt")
    assert flow.origin is not None
    assert main(["sample", str(run), "--num-points", "500", "--out", str(tmp_path / "a.npy")]) == 0
    drawn = np.load(tmp_path / "a.npy")[0]
    assert np.abs(np.median(drawn, axis=0) - [701362.5, 4485513.5, 40.5]).max() < 0.5
    np.save(tmp_path / "maps.npy", np.load(tmp_path / "map.npy").reshape(20, 20, 3))
    capsys.readouterr()
    words = ["train", str(tmp_path / "maps.npy"), "--model", "vae", "--out", str(tmp_path / "vae"), *TINY]
    assert main(words) == 2
    assert "subtract an origin first" in capsys.readouterr().err


def test_a_run_that_is_there_is_resumed_by_its_option(tmp_path, capsys, fitted):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("mine")
    np.save(tmp_path / "a.npy", numbered(30))
    assert main(["train", str(tmp_path / "a.npy"), "--out", str(tmp_path / "run")]) == 2
    told = "already holds a run (config.toml): give --resume to continue it, or choose another folder"
    assert told in capsys.readouterr().err
    assert not fitted


def test_features_have_units_of_their_own(tmp_path, capsys, no_pictures):
    points = np.random.default_rng(0).normal(size=(300, 3))
    rows = [f"{x},{y},{z},{1000 * x:.3f}" for x, y, z in points.round(4).tolist()]
    (tmp_path / "scan.csv").write_text("\n".join(["x,y,z,intensity", *rows]))
    words = ["train", str(tmp_path / "scan.csv"), "--features", "intensity", "--max-steps", "2", "--out"]
    assert main([*words, str(tmp_path / "run"), "--num-couplings", "1", "--hidden-dims", "8"]) == 0
    flow = pcf.load(tmp_path / "run" / "model.pt")
    assert (flow.point_dim, flow.feature_dim) == (4, 1)
    assert 500 < flow.units.scale[3] / flow.units.scale[0] < 2000
    assert main([*words, str(tmp_path / "other"), "--model", "vae"]) == 2
    assert "--features: a model of many shapes has one unit for all coordinates" in capsys.readouterr().err
