from __future__ import annotations

import math

import pytest
import torch

from pyro_pcflow.ops.network import ACTIVATIONS, autocast, fourier_features, modulated_mlp


def test_fourier_features_are_sines_and_cosines_of_octaves():
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    got = fourier_features(x, 3)[0].tolist()
    angles = [2.0**octave * value for octave in range(3) for value in (0.3, -1.2)]
    assert got == pytest.approx([0.3, -1.2, *map(math.sin, angles), *map(math.cos, angles)])
    assert fourier_features(x, 0) is x


def test_layers_are_modulated_before_skips_and_skips_before_activations():
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(4, 4, dtype=torch.float64, generator=generator) for _ in range(3)]
    layers = [lambda x, matrix=matrix: x @ matrix for matrix in matrices]
    x, scale, shift = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    got = modulated_mlp(layers, x, [(scale, shift), (None, shift), (None, None)], [False, True, False], "leaky_relu")
    leaky = ACTIVATIONS["leaky_relu"]
    first = leaky(scale * (x @ matrices[0]) + shift)
    second = leaky(first @ matrices[1] + shift + x)
    torch.testing.assert_close(got, leaky(second @ matrices[2]))
    assert leaky(torch.tensor(-1.0)).item() == pytest.approx(-0.1)


def test_autocast_rounds_products_and_none_does_not():
    x = torch.randn(4, 4)
    with autocast(None, x.device):
        assert (x @ x).dtype == torch.float32
    with autocast(torch.bfloat16, x.device):
        assert (x @ x).dtype == torch.bfloat16
