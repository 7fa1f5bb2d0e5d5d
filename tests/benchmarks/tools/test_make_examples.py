"""The examples of the package are made alike each time."""

from __future__ import annotations

import numpy as np
import pytest

import pyro_pcflow as pcf
from benchmarks.tools import make_examples
from pyro_pcflow.data.examples import dequantise


@pytest.fixture
def full_sets(tmp_path):
    rng = np.random.default_rng(1)
    source = tmp_path / "source"
    (source / "meshes").mkdir(parents=True)
    (source / "meshes" / "spot.obj").write_bytes(pcf.data.example_path("spot").read_bytes())
    labels = np.repeat(["val", "train", "test"], [5, 250, 70])
    ids = np.arange(325).astype(str)
    np.savez(source / "body.npz", points=rng.uniform(-1, 1, (325, 6, 3)), split=labels, ids=ids)
    for name in ("chair", "table"):
        np.savez(
            source / f"{name}.npz",
            points=rng.uniform(-1, 1, (5, 9000, 3)),
            ids=ids[:5],
            split=np.array(["train"] * 5),
            licence=np.array(["CC0", "CC-BY-3.0", "CC0", "CC-BY-3.0-US", "CC0"]),
            name=np.array(["A", "B", "Desk lamp", "D", "E"]),
            creator=np.array(["a", "b", "c", "d", "e"]),
        )
    return source


def test_examples_are_made_alike_each_time(tmp_path, full_sets, monkeypatch, command):
    written = []
    for out in (tmp_path / "one", tmp_path / "two"):
        command(make_examples, full_sets, "--out", out)
        written.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert written[0] == written[1]
    with np.load(tmp_path / "one" / "chair.npz") as arrays:
        assert arrays["creator"].tolist() == ["a", "e"]
        assert arrays["quantised"].shape == (2, 8192, 3)
    with np.load(tmp_path / "one" / "body.npz") as arrays:
        assert np.unique(arrays["split"], return_counts=True)[1].tolist() == [60, 240]
    monkeypatch.setattr(make_examples, "LIMIT", 1000)
    with pytest.raises(SystemExit, match="bytes of examples, more than 1000"):
        command(make_examples, full_sets, "--out", tmp_path / "three")


def test_quantisation_error():
    points = np.random.default_rng(0).uniform(-3, 5, (4, 100, 2)) * [1, 100]
    errors = np.abs(dequantise(make_examples.quantise(points)) - points).max(axis=(0, 1))
    assert errors == pytest.approx([0, 0], abs=1e-2)
    assert (errors < [8 / 65535, 800 / 65535]).all()
