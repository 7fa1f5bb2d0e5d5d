"""The trained models in the package are what their docstring says."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.bodies import chamfer, trees_of
from benchmarks.common.scores import evidence_lower_bound
from pyro_pcflow.models import PRETRAINED, pretrained

LARGEST = 10e6
# Of the 60 embedded test bodies, nats per point; that of all 150 is in the documentation.
BOUND = 2.025


@pytest.fixture(scope="module")
def test_bodies():
    return pcf.data.load_example("body", split="test")


def test_it_is_loaded_to_where_was_asked_in_single_precision(monkeypatch):
    asked = []

    def load(path, device):
        asked.append(device)
        return pcf.load(path, "cpu").half()

    monkeypatch.setattr(pretrained, "load", load)
    pcf.load_pretrained("body", "cuda:1")
    assert next(pcf.load_pretrained("body").parameters()).dtype == torch.float32
    assert asked == ["cuda:1", "cpu"]


@pytest.mark.parametrize("name", PRETRAINED)
def test_it_comes_in_a_small_file(name):
    assert (files("pyro_pcflow.models") / f"{name}.pt").stat().st_size < LARGEST


def test_the_bound_of_bodies_is_the_documented_one(test_bodies):
    """A change of a default that the file does not name would show here."""
    vae = pcf.load_pretrained("body")
    assert evidence_lower_bound(vae, test_bodies, noise=0.01)["nats_per_point"] == pytest.approx(BOUND, abs=0.01)


def test_bodies_are_recognised(test_bodies):
    vae = pcf.load_pretrained("body")
    torch.manual_seed(0)
    again = vae.reconstruct(test_bodies[:, 1024:], 1024)
    trees = trees_of(test_bodies[:, :1024])
    nearest = [int(chamfer(cloud, trees).argmin()) for cloud in again[:20]]
    assert nearest == list(range(20))


def test_refined_latents_reconstruct_better(test_bodies):
    vae = pcf.load_pretrained("body")
    seen, other = test_bodies[:6, :1024], test_bodies[:6, 1024:]
    distances = []
    for steps in (0, 3):
        torch.manual_seed(0)
        again = vae.reconstruct(seen, 1024, refine_steps=steps)
        walk = vae.interpolate(seen, seen.flip(0), 2, 1024, refine_steps=steps)
        distances.append([pcf.metrics.chamfer(clouds, other).mean().item() for clouds in (again, walk[0])])
    assert distances[1][0] < distances[0][0]
    assert distances[1][1] < distances[0][1]


@pytest.mark.parametrize(("number", "name"), [(0, "chair"), (1, "table")])
def test_furniture_is_told_apart(number, name):
    """Which class the clouds of its training are of, by the bounds under both labels."""
    vae = pcf.load_pretrained("furniture")
    clouds = pcf.data.load_example(name, 1024, split="train")
    clouds = clouds + 0.01 * torch.randn(clouds.shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        bounds = [vae.log_prob(clouds, num_particles=4, labels=torch.full((len(clouds),), label)) for label in (0, 1)]
    assert torch.stack(bounds).argmax(0).tolist() == [number] * len(clouds)


def test_new_furniture_is_of_the_size_of_the_old():
    """Draws run away where a prior has learnt few clouds by heart: of those of a trial to 1e11 half extents."""
    torch.manual_seed(0)
    new = pcf.load_pretrained("furniture").sample(200, 500, labels=torch.arange(200) // 100)
    reach = new.abs().amax((1, 2))
    assert reach.max() < 20
    assert (reach > 2).double().mean() < 0.1


def test_an_unknown_name():
    with pytest.raises(ValueError, match="no pretrained model 'cow'; there are body, furniture"):
        pcf.load_pretrained("cow")
