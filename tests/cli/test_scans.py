"""Files of what was found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pyro_pcflow.cli.scans import write_json


def test_what_is_not_finite_is_null(tmp_path):
    content = {"a": torch.tensor([1.0, torch.nan]), "b": [np.float32(0.5), float("inf"), 3], "c": {"d": np.arange(2)}}
    write_json(content, tmp_path / "new" / "a.json")
    text = (tmp_path / "new" / "a.json").read_text()
    assert json.loads(text) == {"a": [1.0, None], "b": [0.5, None, 3], "c": {"d": [0, 1]}}
    with pytest.raises(FileExistsError):
        write_json(content, tmp_path / "new" / "a.json")
