"""How exact the reference is in float32, and every backend beside it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import pyro_pcflow as pcf
from helpers import rounding
from pyro_pcflow.kernels import reference
from pyro_pcflow.kernels.gpu import launch
from pyro_pcflow.kernels.operator import run
from pyro_pcflow.transforms.lowering import can_lower, lower

BODY = Path(__file__).parents[1] / "files_of_0_1_0" / "body.pt"
# Triton's interpreter is slow.
COUNT = 83 if launch.INTERPRETED else 160


@functools.lru_cache
def trained(inverse):
    """The couplings of an earlier model of bodies as a program, points, and what float32 may make of them."""
    vae = pcf.load(BODY).float()
    pcf.kernels.set_backend(vae, "plain")
    torch.manual_seed(0)
    with torch.no_grad():
        contexts = vae.latent_prior().sample((2,))
        points = vae.decode(contexts, COUNT).sample() if inverse else torch.randn(2, COUNT, 3)
        couplings = [part for part in vae.decoder.transform.parts if can_lower(part)]
        program, weights, offsets = lower(couplings, contexts, 2, 3)
    arguments = (program, points, weights, offsets, inverse)
    return arguments, rounding.expected(*arguments)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_trained_model_as_exactly_as_float32_can(backend, inverse):
    """Errors no larger than rounding after every operation makes them, see `rounding.py`."""
    arguments, expected = trained(inverse)
    got = rounding.results(lambda *arguments: run(*arguments, backend), *arguments)
    for name, ratio in rounding.excess(got, *expected).items():
        assert ratio < 1, name


def drop_bits(x, bits):
    """A number of float32 without its lowest bits."""
    return (x.detach().view(torch.int32) & -(1 << bits)).view(torch.float32) + (x - x.detach())


@pytest.mark.parametrize(
    ("owner", "name", "sloppy"),
    [
        (reference.F, "linear", lambda x, weight: drop_bits(x, 13) @ drop_bits(weight, 13).mT),  # as tensor cores round
        (reference.F, "linear", lambda x, weight: drop_bits(x @ weight.mT, 5)),
        (torch, "tanh", lambda x: x.sinh() / x.cosh() + 1e-5),
        (torch, "exp", lambda x: x.exp() * (1 + 2e-6)),
        (reference, "tanh_bound", lambda x, limit: drop_bits(limit * torch.tanh(x / limit), 4)),
    ],
)
def test_the_bound_tells_a_sloppy_kernel(monkeypatch, owner, name, sloppy):
    arguments, expected = trained(True)
    assert max(rounding.excess(rounding.results(reference.evaluate, *arguments), *expected).values()) < 1
    monkeypatch.setattr(owner, name, sloppy)
    assert max(rounding.excess(rounding.results(reference.evaluate, *arguments), *expected).values()) > 1
