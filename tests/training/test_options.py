"""Options of a training, checked where they are made."""

from __future__ import annotations

import pytest
import torch

from pyro_pcflow.training.options import as_device


def test_devices():
    assert as_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert as_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device None"):
        as_device(None)
