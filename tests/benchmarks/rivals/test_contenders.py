"""Each contender learns a shape, and what it may choose from."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest

import pyro_pcflow as pcf
from benchmarks.common.meshes import load_shape
from benchmarks.common.scores import nats_per_point
from benchmarks.rivals.contenders import CONTENDERS


@pytest.fixture(scope="module")
def scan():
    return load_shape(pcf.data.example_path("spot"), num_points=600, noise=0.0, num_scored=500)


@pytest.mark.parametrize("name", CONTENDERS)
def test_it_learns_a_scan(scan, name):
    contender = CONTENDERS[name]
    if find_spec(contender.needs) is None:
        pytest.skip(f"needs {contender.needs}")
    fitted = contender.fit(scan, 0.1, 0, **contender.settings_for(scan)[0])
    assert math.isfinite(nats_per_point(fitted.density, scan.test))
    assert fitted.steps > 0
    assert fitted.stored > 0
    assert fitted.diverged_at is None


def test_all_choose_between_several_settings_unless_they_choose_themselves(scan):
    of_scan = {name: contender.settings_for(scan) for name, contender in CONTENDERS.items()}
    assert {len(own) for name, own in of_scan.items() if "kernel" in name or "default" in name} == {1}
    assert all(len({str(setting["noise"]) for setting in of_scan[name]}) == 2 for name in ("pyro", "ours"))


def test_noise_that_is_known_is_not_chosen():
    mesh = load_shape(pcf.data.example_path("spot"), num_points=10, num_scored=10)
    assert [s["lr"] for s in CONTENDERS["pyro"].settings_for(mesh)] == [2.5e-3, 5e-3, 1e-2]
    assert {s["noise"] for s in CONTENDERS["ours"].settings_for(mesh)} == {mesh.noise}
    assert CONTENDERS["kernel density"].settings_for(mesh) == [{}]


def test_what_runs_by_default_chooses_nothing_and_sees_no_validation_points(scan, monkeypatch):
    given = []

    def fit(module, points, **options):
        given.append(options)
        return pcf.training.FitResult(1, 0.1, None, [], None, "cpu")

    monkeypatch.setattr(pcf, "fit", fit)
    for name in ("ours, by default", "ours"):
        contender = CONTENDERS[name]
        contender.fit(scan, 1.0, 0, **contender.settings_for(scan)[0])
    assert "held_out" not in given[0]
    assert given[0]["noise"] == "auto"
    assert [options["lr"] for options in given] == [None, 2.5e-3]
    assert given[1]["held_out"] is scan.validation
