"""Rows on disk: who finds them, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pyro_pcflow.metrics import pairwise


def test_nothing_else_finds_the_rows(bodies, tmp_path):
    other = bodies.clone()
    other[3, 5, 1] += 1e-9
    mask = torch.ones(bodies.shape[:-1], dtype=torch.bool)
    mask[0, 0] = False
    calls = [
        {},
        {"x": other},
        {"x": bodies.float()},
        {"y": bodies},
        {"y": other},
        {"x_mask": mask},
        {"y": bodies, "x_mask": mask},
        {"y": bodies, "y_mask": mask},
        {"distance": "hausdorff"},
        {"options": {"convention": "squared_mean"}},
    ]
    for number, call in enumerate(calls, 1):
        arguments = {"x": bodies} | call
        assert torch.equal(pairwise(**arguments, path=tmp_path), pairwise(**arguments))
        assert len(list(tmp_path.iterdir())) == number
    # Naming a default changes nothing.
    pairwise(bodies, options={"convention": "squared_sum"}, path=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(calls)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_damaged_folder_is_refused(bodies, tmp_path):
    pairwise(bodies, path=tmp_path)
    (folder,) = tmp_path.iterdir()
    (rows,) = folder.glob("rows-*.npy")
    good = rows.read_bytes()
    for bad in (b"", good[:100], b"nonsense"):
        rows.write_bytes(bad)
        with pytest.raises(ValueError, match=r"not readable as rows; delete it"):
            pairwise(bodies, path=tmp_path)
    np.save(rows, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"holds float64 of shape \(2, 3\)"):
        pairwise(bodies, path=tmp_path)
    np.save(rows, np.zeros((11, 11), dtype=np.float32))
    with pytest.raises(ValueError, match=r"holds float32 of shape \(11, 11\)"):
        pairwise(bodies, path=tmp_path)
    rows.write_bytes(good)
    head = folder / "matrix.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"sha256": "0" * 64}))
    with pytest.raises(ValueError, match="describes another matrix"):
        pairwise(bodies, path=tmp_path)
    head.write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        pairwise(bodies, path=tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        pairwise(bodies, path=rows)
