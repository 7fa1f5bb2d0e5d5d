"""The comparison of model families: all take part, what is done is not done again, and no failure is hidden."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from benchmarks import model_families, model_runs, models
from benchmarks.model_families import FAMILIES, Family, Size, chosen_families
from benchmarks.model_records import TRAIN_ROW, ModelRun, append_run, check_protocols, read_runs
from benchmarks.model_runs import judge, make_protocol, nats_per_point, run_model, run_train_row
from benchmarks.model_table import table
from benchmarks.vae import load_category

SMALL = {"decoder": {"num_couplings": 2, "hidden_dims": [8]}, "encoder": {"point_dims": [8], "hidden_dims": [8]}}
TINY = [
    "--steps",
    "2",
    "--points",
    "32",
    "--scored-points",
    "48",
    "--particles",
    "2",
    "--draws",
    "2",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty clouds, each an ellipsoid of its own."""
    path = tmp_path_factory.mktemp("data") / "ellipsoids.npz"
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(30, 128, 3, generator=generator) * (0.2 + torch.rand(30, 1, 3, generator=generator))
    np.savez(path, points=points.numpy(), split=np.array(["train"] * 18 + ["val"] * 6 + ["test"] * 6))
    return path


@pytest.fixture(scope="module")
def category(data):
    return load_category(data)


@pytest.fixture(scope="module")
def protocol(category):
    return protocol_of(category)


def protocol_of(category, **changes):
    settings = {
        "split": "test",
        "seconds": None,
        "max_steps": 2,
        "num_points": 32,
        "scored_points": 48,
        "particles": 2,
        "draws": 2,
        "device": "cpu",
    }
    return make_protocol(category, **{**settings, **changes})


@pytest.fixture
def small(monkeypatch):
    """Two families of ours and one rival, small."""
    small = dataclasses.replace(FAMILIES["default"], make=lambda size: pcf.PointCloudVAE(3, 4, **SMALL))
    families = {"default": small, "nice": small, "gan": FAMILIES["gan"]}
    monkeypatch.setattr(model_runs, "FAMILIES", families)
    return families


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["models", *map(str, arguments)])
    models.main()
    return capsys.readouterr()


def test_everybody_who_is_asked_takes_part():
    asked = ["default", "nice", "realnvp", "cif", "dpf", "softflow", "mixture", "pyro", "decoder-vae"]
    asked += ["gaussian-vae", "gan"]
    assert chosen_families(["presets", "rivals"]) == asked
    assert chosen_families(["gan", "default", "gan"]) == ["default", "gan"]
    ablations = " ".join(chosen_families(["ablations"]))
    for what in ("conditioning", "base", "noise-input", "mixture", "prior", "auto-decoder"):
        assert what in ablations
    with pytest.raises(ValueError, match="unknown model 'diffusion': expected default, nice"):
        chosen_families(["diffusion"])


LARGE = ("cif", "softflow", "dpf", "mixture")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.exhaustive] if name == "cif" else []) for name in FAMILIES]
)
def test_each_family_trains_and_gives_clouds(name, category, protocol, monkeypatch):
    if name == "cif":
        # Its 190 million parameters are trained elsewhere.
        small = dataclasses.replace(
            FAMILIES[name], make=lambda size: pcf.models.preset("cif", decoder={"num_couplings": 2})
        )
        monkeypatch.setitem(FAMILIES, name, small)
    run = run_model(name, category, 0, None, protocol)
    assert run.steps == 2
    assert run.parameters > 10_000
    assert run.trained_seconds > 0 < run.sampling_seconds
    assert FAMILIES[name].has_density == (run.nats_per_point is not None)
    assert {"1-nna-cd", "cov-cd", "mmd-cd", "jsd"} <= run.scores.keys()
    assert all(len(values) == 2 for values in run.scores.values())
    assert json.loads(json.dumps(dataclasses.asdict(run), allow_nan=False))["model"] == name


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in LARGE])
def test_each_family_samples_the_right_shape(name):
    torch.manual_seed(0)
    assert FAMILIES[name].make(Size(18, 32)).sample(5, 32).shape == (5, 32, 3)


def test_the_table_has_all_rows_and_what_is_done_is_skipped(data, small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "runs.jsonl"
    arguments = [data, "--models", "default", "nice", "gan", "--seeds", "0", "1", *TINY, "--out", out]
    first = command(monkeypatch, capsys, *arguments)
    rows = [line for line in first.out.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["default", "nice", "gan", f"*{TRAIN_ROW}*"]
    assert len({row.count("|") for row in first.out.splitlines() if row.startswith("|")}) == 1
    assert rows[2].split(" | ")[2] == "none"
    assert re.match(r"\**-?\d+\.\d{3} \(-?\d+\.\d{3} to -?\d+\.\d{3}\)", rows[0].split(" | ")[2])
    assert len(first.err.splitlines()) == 7

    lines = out.read_text().splitlines(keepends=True)
    # Stopped in the middle of the fourth line.
    out.write_text("".join(lines[:3]) + lines[3][:40])
    again = command(monkeypatch, capsys, *arguments)
    assert len(again.err.splitlines()) == 4
    assert len(out.read_text().splitlines()) == 7
    third = command(monkeypatch, capsys, *arguments)
    assert third.err == ""
    assert third.out == again.out
    without_times = [re.sub(r"\| [^|]*(\| [^|]*){4}\|$", "", line) for line in (first.out + again.out).splitlines()]
    half = len(without_times) // 2
    rows = [line for line in without_times[:half] if line.startswith("| ")]
    assert rows == [line for line in without_times[half:] if line.startswith("| ")]


def test_a_file_of_another_protocol_is_refused(data, small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "runs.jsonl"
    arguments = [data, "--models", "gan", "--seeds", "0", *TINY, "--out", out]
    command(monkeypatch, capsys, *arguments)
    with pytest.raises(SystemExit):
        command(monkeypatch, capsys, *arguments, "--points", "16")
    assert "num_points 32, not 16" in capsys.readouterr().err
    # Another learning rate is another run, not another protocol.
    command(monkeypatch, capsys, *arguments, "--lr", "1e-4")
    assert [run.lr for run in read_runs(out) if run.model == "gan"] == [FAMILIES["gan"].lr, 1e-4]


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="line 1 is no run of this comparison"):
        read_runs(tmp_path / "other.jsonl")


class Broken(torch.nn.Module):
    """Diverges, and samples what is not finite under odd seeds."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.odd = bool(torch.initial_seed() % 2)

    def sample(self, num_clouds, num_points):
        clouds = torch.randn(num_clouds, num_points, 3)
        if self.odd:
            clouds[0, 0, 0] = torch.nan
        return clouds

    def log_prob(self, clouds, num_particles):
        return torch.full(clouds.shape[:1], -math.inf if self.odd else -10_000.0)


def diverge(model, clouds, **_):
    raise pcf.training.TrainingDivergedError("the loss is nan", step=7, culprit=None)


def test_a_failing_model_is_counted_and_not_hidden(category, protocol, monkeypatch):
    broken = Family("presets", "fails", lambda size: Broken(), 1e-3, diverge)
    monkeypatch.setitem(model_families.FAMILIES, "nice", broken)
    odd, even = run_model("nice", category, 1, None, protocol), run_model("nice", category, 2, None, protocol)
    assert odd.failures == ["diverged at step 7", "the held-out bound is -inf", "2 of 12 samples are not finite"]
    assert odd.nats_per_point is None
    assert odd.scores["1-nna-cd-smp"][0] > 0
    assert not any(math.isnan(value) for values in odd.scores.values() for value in values)
    assert even.failures[0] == "diverged at step 7"
    assert even.nats_per_point == pytest.approx(-10_000 / 48)
    good = run_model("prior-normal", category, 1, None, protocol)
    text = "\n".join(table([odd, even, good], protocol))
    assert "| nice | 2 of 2 | -208.333 |" in text
    assert "- nice: seed 1 diverged at step 7, the held-out bound is -inf, 2 of 12 samples are not finite; seed" in text
    alone = "\n".join(table([odd], protocol))
    assert "| 1 of 1 | not finite |" in alone
    assert "**not finite**" not in alone


def test_an_error_that_is_no_failure_of_training_is_raised(category, protocol, monkeypatch):
    def wrong(model, clouds, **_):
        raise RuntimeError("a mistake in the benchmark")

    monkeypatch.setitem(model_families.FAMILIES, "nice", Family("presets", "", lambda size: Broken(), 1e-3, wrong))
    with pytest.raises(RuntimeError, match="a mistake"):
        run_model("nice", category, 0, None, protocol)


def test_samples_of_which_none_is_finite_have_the_scores_that_are_left(category, protocol):
    references = model_runs.reference_clouds(category, protocol)
    scores, failures = judge(torch.full((1, *references.shape), torch.nan), references)
    assert failures[0] == "6 of 6 samples are not finite"
    assert failures[1].startswith("collapsed")
    assert scores["1-nna-cd"] == [1.0]
    assert scores["jsd"] == [1.0]
    assert not {"mmd-cd", "spread-cd"} & scores.keys()


def test_collapse_is_found():
    torch.manual_seed(0)
    radii = 0.2 + torch.rand(12, 1, 3)
    references, samples = (radii * torch.randn(12, 64, 3) for _ in range(2))
    assert judge(samples.unsqueeze(0), references)[1] == []
    one = samples[:1].expand(12, -1, -1) + 0.01 * torch.randn(12, 64, 3)
    (failure,) = judge(one.unsqueeze(0), references)[1]
    assert failure.startswith("collapsed: spread 0.0")
    (failure,) = judge(one.unsqueeze(0) + 100, references)[1]
    assert failure.startswith("collapsed")


@pytest.mark.parametrize(
    ("spread", "coverage", "collapsed"),
    [(0.09, 0.9, True), (0.11, 0.9, False), (1.0, 0.05, True), (1.0, 0.06, False), (1.0, 1 / 50, True)],
)
def test_either_sign_of_collapse_is_enough(spread, coverage, collapsed, monkeypatch):
    monkeypatch.setattr(model_runs, "score", lambda *_: {"spread-cd": spread, "cov-cd": coverage})
    assert bool(judge(torch.zeros(2, 50, 4, 3), torch.randn(50, 4, 3))[1]) == collapsed


def test_the_bound_is_that_of_a_density_that_is_known(category, protocol):
    """Independent standard normal points, whose mean log-density has a closed form given the points."""

    class Normal(torch.nn.Module):
        def log_prob(self, clouds, num_particles):
            self.seen = clouds.shape
            return torch.distributions.Normal(0.0, 1.0).log_prob(clouds.double()).sum((-2, -1))

    model = Normal()
    got = nats_per_point(model, category.test, protocol)
    points = category.test.double()
    expected = -1.5 * math.log(2 * math.pi) - float(points.square().sum(-1).mean() + 3 * protocol.noise**2) / 2
    assert model.seen[-2:] == (48, 3)
    # 288 of 768 points are scored: four standard errors.
    tolerance = 4 * float(points.square().sum(-1).std()) / 2 / math.sqrt(288)
    assert got == pytest.approx(expected, abs=tolerance)


def test_a_model_that_knows_its_noise_is_told_of_it(category, protocol):
    class Told(torch.nn.Module):
        noise_input = True

        def log_prob(self, clouds, num_particles, noise_level):
            return torch.full(clouds.shape[:1], noise_level)

    assert nats_per_point(Told(), category.test, protocol) == pytest.approx(1 / 48)


def test_references_do_not_depend_on_the_model_and_the_train_row_on_nothing(category, protocol):
    first, second = run_train_row(category, protocol), run_train_row(category, protocol)
    assert first.scores == second.scores
    assert first.failures == []
    with pytest.raises(ValueError, match="have no 500"):
        run_train_row(category, protocol_of(category, num_points=500))


def test_seeds_make_runs_repeat(category, protocol, small):
    first, second, other = (run_model("default", category, seed, None, protocol) for seed in (0, 0, 1))
    assert first.nats_per_point == second.nats_per_point != other.nats_per_point
    assert first.scores == second.scores != other.scores


def made_run(model, protocol, nats, nna, halves=(0.6, 0.7), **changes):
    scores = {key: [0.5, 0.5] for key in ("1-nna-cd-ref", "1-nna-cd-smp", "cov-cd", "mmd-cd", "jsd", "spread-cd")}
    scores |= {"1-nna-cd-ref": [halves[0]] * 2, "1-nna-cd-smp": [halves[1]] * 2}
    fields = {
        "model": model,
        "seed": 0,
        "lr": 1e-3,
        "protocol": protocol,
        "nats_per_point": nats,
        "scores": {**scores, "1-nna-cd": nna},
        "trained_seconds": 1.0,
        "steps": 2,
        "parameters": 10,
        "sampling_seconds": 0.001,
        "failures": [],
        "environment": {},
    }
    return ModelRun(**{**fields, **changes})


def test_the_best_of_each_column_is_marked_whoever_it_is(protocol):
    runs = [
        made_run("default", protocol, -2.0, [0.9, 0.8], halves=(0.9, 0.8)),
        made_run("default", protocol, -1.0, [0.9, 0.8], seed=1, halves=(0.9, 0.8)),
        made_run("pyro", protocol, -1.6, [0.5, 0.5], halves=(1.0, 0.0)),
        made_run("gan", protocol, None, [0.6, 0.7], parameters=9, failures=["collapsed"]),
    ]
    text = table(runs, protocol)
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text if line.startswith("| ")}
    assert rows["default"][1:4] == ["**0 of 2**", "**-1.500 (-2.000 to -1.000)**", "85.0 ± 5.8"]
    assert rows["pyro"][1:4] == ["**0 of 1**", "-1.600", "50.0 ± 0.0"]
    assert rows["gan"][1:4] == ["1 of 1", "none", "**65.0 ± 7.1**"]
    assert "A rival is the best in: 1-NNA-CD (gan), parameters (gan)." in text
    assert "- gan: seed 0 collapsed." in text
    assert not any("A rival is the best" in line for line in table(runs[:2], protocol))


def test_the_best_spread_is_the_nearest_to_that_of_references(protocol):
    spreads = {"default": 0.2, "pyro": 1.3, "gan": 1.9}
    runs = [made_run(name, protocol, -2.0, [0.6]) for name in spreads]
    for run, spread in zip(runs, spreads.values(), strict=True):
        run.scores["spread-cd"] = [spread]
    text = "\n".join(table(runs, protocol))
    assert "**1.30**" in text
    assert not any(f"**{other}" in text for other in ("0.2", "1.9"))


def test_where_all_are_alike_none_is_marked(protocol):
    runs = [made_run(name, protocol, -2.0, [0.9], halves=(0.8, 1.0)) for name in ("default", "pyro")]
    assert not any("**" in line for line in table(runs, protocol))
    assert "No rival is the best of a column." in table(runs, protocol)


def test_runs_of_another_protocol_stay_out_of_the_table(protocol):
    other = dataclasses.replace(protocol, num_points=64)
    runs = [made_run("default", protocol, -2.0, [0.9]), made_run("gan", other, None, [0.6])]
    assert not any(line.startswith("| gan") for line in table(runs, protocol))
    with pytest.raises(ValueError, match="num_points 64, not 32"):
        check_protocols(runs, protocol)
    check_protocols(runs, dataclasses.replace(protocol, max_steps=3))


def test_records_survive_the_file(tmp_path, protocol):
    runs = [made_run("default", protocol, -2.0, [0.9]), made_run("gan", protocol, None, [0.6])]
    for run in runs:
        append_run(tmp_path / "runs.jsonl", run)
    assert read_runs(tmp_path / "runs.jsonl") == runs
    assert read_runs(tmp_path / "none.jsonl") == []
