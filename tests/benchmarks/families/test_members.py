"""Who takes part, and what each samples."""

from __future__ import annotations

import pytest
import torch

from benchmarks.families.members import FAMILIES, Size, chosen_families

LARGE = ("cif", "softflow", "dpf", "mixture")


def test_everybody_who_is_asked_takes_part():
    asked = ["default", "nice", "realnvp", "cif", "dpf", "softflow", "mixture", "pyro", "decoder-vae"]
    asked += ["gaussian-vae", "gan"]
    assert chosen_families(["presets", "rivals"]) == asked
    assert chosen_families(["gan", "default", "gan"]) == ["default", "gan"]
    ablations = " ".join(chosen_families(["ablations"]))
    decoders = ("affine", "gaussians", "conditioning", "base", "mixture")
    for what in (*decoders, "uncorrected", "stopped-early", "noise-input", "prior", "auto-decoder"):
        assert what in ablations
    with pytest.raises(ValueError, match="unknown model 'diffusion': expected default, nice"):
        chosen_families(["diffusion"])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in LARGE])
def test_each_family_samples_the_right_shape(name):
    torch.manual_seed(0)
    assert FAMILIES[name].make(Size(18, 32)).sample(5, 32).shape == (5, 32, 3)
