"""Meshes in the unit of their bounding box."""

from __future__ import annotations

import argparse

import pytest

import pyro_pcflow as pcf
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT
from benchmarks.common.meshes import load_shape, mesh_paths


def test_a_shape_fills_its_box():
    shape = load_shape(pcf.data.example_path("spot"), num_points=5000)
    assert [len(part) for part in (shape.train, shape.validation, shape.test)] == [5000, 20_000, 20_000]
    assert shape.noise == NOISE_PER_HALF_EXTENT
    low, high = shape.train.amin(0), shape.train.amax(0)
    assert float((high - low).max()) == pytest.approx(2, abs=0.02)
    assert float(((low + high) / 2).abs().max()) < 0.02


def test_points_to_score_have_the_noise_and_those_to_learn_from_have_none():
    raw, thick = (load_shape(pcf.data.example_path("spot"), 100, noise, num_scored=5000) for noise in (0.0, 0.1))
    assert raw.train.equal(thick.train)
    for part in ("validation", "test"):
        moved = getattr(thick, part) - getattr(raw, part)
        assert moved.std(0).tolist() == pytest.approx([0.1] * 3, rel=0.05)


def test_a_folder_without_meshes_is_told(tmp_path, capsys):
    mesh = pcf.data.example_path("spot")
    parser = argparse.ArgumentParser()
    assert mesh_paths(mesh, parser) == [mesh]
    with pytest.raises(SystemExit):
        mesh_paths(tmp_path, parser)
    assert "holds no .obj file" in capsys.readouterr().err
