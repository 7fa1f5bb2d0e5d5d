"""Points on surfaces are told from volumes, and get the noise that suits their spacing."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.small_vae import make_vae
from helpers.stand_ins import DiagonalGaussian
from pyro_pcflow.training import ExactLikelihood, toml
from pyro_pcflow.training.thickness import SHARES, automatic_noise, lies_on_a_surface, spacing


def normal(count, dim, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def uniform(count, dim=1, seed=1):
    return torch.rand(count, dim, generator=torch.Generator().manual_seed(seed))


def sphere(count):
    return torch.nn.functional.normalize(normal(count, 3), dim=-1)


def ball(count):
    return sphere(count) * uniform(count) ** (1 / 3)


def curve(count):
    turn = 7 * uniform(count)
    return torch.cat([turn.cos(), turn.sin(), turn / 5], -1)


def plane(count, *normal_direction):
    """Points on a tilted plane, or, of two coordinates, on a line."""
    across = torch.tensor(normal_direction)
    points = normal(count, len(across))
    return points - (points @ across).unsqueeze(-1) * across / (across @ across)


def cow(count):
    return pcf.data.load_example("spot", count)[0]


def thickened(points, share=0.5):
    return points + share * spacing([points]) * normal(*points.shape, seed=9)


SURFACES = {
    "sphere": lambda: sphere(2000),
    "cow": lambda: cow(3000),
    "sparse cow": lambda: cow(500),
    "dense cow": lambda: cow(50_000),
    "curve": lambda: curve(1000),
    "circle": lambda: torch.nn.functional.normalize(normal(500, 2), dim=-1),
    "plane": lambda: plane(1000, 1.0, 2.0, 3.0),
    "line": lambda: plane(1000, 1.0, 2.0),
    "with normals": lambda: torch.cat([5 * sphere(3000), sphere(3000)], -1),
    "with copies": lambda: sphere(2000).repeat(3, 1),
}
VOLUMES = {
    "normal": lambda: normal(3000, 3),
    "ball": lambda: ball(20_000),
    "few": lambda: normal(100, 3),
    "plane data": lambda: normal(3000, 2),
    "in other units": lambda: normal(3000, 3) * torch.tensor([1000.0, 1.0, 0.01]),
    "of one coordinate": lambda: normal(1000, 1),
    "of six": lambda: normal(3000, 6),
    "clusters": lambda: 0.01 * normal(3000, 3) + normal(5, 3)[torch.arange(3000) % 5],
    "a thickened sphere": lambda: thickened(sphere(2000)),
    "a thickened cow": lambda: thickened(cow(3000)),
    "a thickened curve": lambda: thickened(curve(1000), 3.0),
}


@pytest.mark.parametrize("name", SURFACES)
def test_surfaces(name):
    points = SURFACES[name]()
    assert lies_on_a_surface([points])
    assert lies_on_a_surface([1e-3 * points + 0.01, 500 * points.flip(-1)])


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes(name):
    points = VOLUMES[name]()
    assert not lies_on_a_surface([points])


def test_too_few_points_tell_nothing():
    assert not lies_on_a_surface([sphere(50)])
    assert not lies_on_a_surface([])


def test_the_spacing_is_that_of_a_search_by_brute_force():
    points = ball(300)
    distances = torch.cdist(points.double(), points.double()).fill_diagonal_(math.inf).amin(-1)
    assert spacing([points]) == pytest.approx(np.median(distances), rel=1e-6)
    # A copy is no neighbour.
    assert spacing([points.repeat(3, 1)]) == pytest.approx(np.median(distances), rel=1e-6)
    # Two clouds in one place are none of the other's concern.
    assert spacing([points, points + 1e-6]) == pytest.approx(np.median(distances), rel=1e-3)


@pytest.mark.parametrize("points", [torch.ones(5, 3), torch.zeros(1, 2), torch.zeros(0, 2)])
def test_points_without_a_distance_are_refused(points):
    assert spacing([points]) is None
    with pytest.raises(ValueError, match='noise="auto" takes its width from the distances of points, and no two'):
        automatic_noise([points])


@pytest.mark.parametrize(("points", "least", "most"), [
    # On surfaces among the least; in volumes about that of a kernel density estimate.
    (sphere(3000), SHARES[0], 0.15), (curve(3000), SHARES[0], SHARES[0]), (ball(3000), 0.5, 2.0),
    (normal(3000, 2), 1.0, SHARES[-1]),
])  # fmt: skip
def test_the_width_follows_from_what_held_out_points_like(points, least, most):
    assert 0.99 * least <= automatic_noise([points]) / spacing([points]) <= 1.01 * most


def by_brute_force(points, width):
    """Of each tenth of the points, under a Gaussian at each other one along its neighbours: manifold Parzen windows."""
    points = points[np.lexsort(points.T.flip(0).numpy())].double()
    total = 0.0
    for part in range(10):
        held_out = torch.arange(len(points)) % 10 == part
        rest = points[~held_out]
        nearest = torch.cdist(rest, rest).argsort(-1)[:, 1 : points.shape[1] + 2]
        offsets = rest[nearest] - rest.unsqueeze(1)
        covariance = offsets.mT @ offsets / nearest.shape[1] + width**2 * torch.eye(points.shape[1]).double()
        windows = torch.distributions.MultivariateNormal(rest, covariance)
        total += windows.log_prob(points[held_out].unsqueeze(1)).logsumexp(-1).sum().item()
    return total


@pytest.mark.parametrize("points", [thickened(cow(300), 0.7), thickened(sphere(150), 0.7), ball(200), normal(34, 2)])
def test_every_point_of_a_small_cloud_is_held_out_once(points):
    scores = [by_brute_force(points, share * spacing([points])) for share in SHARES]
    expected = SHARES[int(np.argmax(scores))] * spacing([points])
    assert automatic_noise([points]) == pytest.approx(expected, rel=0.01)


def test_a_surface_with_noise_of_its_own_gets_less_than_that():
    points = cow(3000)
    own = 0.5 * spacing([points])
    chosen = automatic_noise([points + own * normal(3000, 3, seed=4)])
    assert 2 * automatic_noise([points]) < chosen < 1.5 * own


def test_it_scales_with_the_units_and_repeats():
    points = ball(2000)
    assert automatic_noise([points]) == automatic_noise([points])
    assert automatic_noise([1000 * points]) == pytest.approx(1000 * automatic_noise([points]), rel=0.01)
    digits = f"{automatic_noise([points]):.10e}".partition("e")[0]
    assert digits.endswith("0" * 8)


def test_in_a_volume_it_beats_much_less_and_much_more():
    """Under the kernel density estimate of its width, which a flow comes to there, unseen points are likelier."""
    points, unseen = ball(4000).split([3000, 1000])
    chosen = automatic_noise([points])

    def score(width):
        squares = torch.cdist(unseen.double(), points.double()).square() / (2 * width**2)
        return (torch.logsumexp(-squares, -1) - 1.5 * math.log(2 * math.pi * width**2)).mean().item()

    assert score(chosen) > score(0.4 * chosen) + 0.1
    assert score(chosen) > score(6 * chosen) + 0.1


class TestFit:
    def run(self, points, **options):
        module = DiagonalGaussian(points.shape[-1])
        return fit(module, points, max_steps=2, device="cpu", warmup_steps=0, **options)

    def test_a_surface_without_noise_is_told(self):
        with pytest.warns(
            UserWarning, match=r"no upper bound, .* Give noise=\"auto\" \(on the command line --noise auto"
        ):
            self.run(sphere(500))
        with pytest.warns(UserWarning, match="no upper bound"):
            fit(make_vae(), torch.stack([sphere(500)] * 4), held_out=0, max_steps=1, batch_size=2, device="cpu")

    def test_it_is_told_once(self):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("default")
            for _ in range(2):
                self.run(sphere(500))
        assert len(told) == 1

    def test_noise_and_volumes_are_not(self):
        self.run(sphere(500), noise=1e-6)
        self.run(sphere(500), noise="auto")
        self.run(ball(500))

    def test_auto_is_as_if_its_number_was_given(self, tmp_path, caplog):
        points = sphere(500)
        chosen = self.run(points, noise="auto", out=tmp_path, pictures=False)
        (line,) = [record.getMessage() for record in caplog.records if "auto" in record.getMessage()]
        assert line == f'noise="auto": a standard deviation of {chosen.noise:g}, in the units of the data'
        assert toml.read(tmp_path / "config.toml")["data"]["noise"] == chosen.noise
        assert f"noise {chosen.noise:.3g}" in repr(chosen)
        given = self.run(points, noise=chosen.noise)
        assert (given.nats_per_point, given.noise) == (chosen.nats_per_point, chosen.noise)

    def test_a_resumed_run_takes_the_stored_width(self, tmp_path, monkeypatch):
        """Whatever would be chosen today."""
        first = self.run(sphere(500), noise="auto", out=tmp_path)
        monkeypatch.setattr("pyro_pcflow.training.data_objective.automatic_noise", lambda clouds: 0.125)
        assert self.run(sphere(500), noise="auto", out=tmp_path, resume=True).noise == first.noise

    def test_a_new_run_that_may_be_resumed_chooses(self, tmp_path):
        assert self.run(sphere(500), noise="auto", out=tmp_path / "new", resume=True).noise > 0

    def test_the_width_is_that_of_training_points(self):
        """Held-out points are not looked at."""
        points = sphere(500)
        with_others = ExactLikelihood(DiagonalGaussian(), points, held_out=1e3 * ball(500), noise="auto").noise
        assert with_others == ExactLikelihood(DiagonalGaussian(), points, held_out=0, noise="auto").noise

    def test_of_clouds_the_distances_within_one_count(self):
        clouds = torch.stack([sphere(300) + 0.001 * i for i in range(4)])
        result = fit(make_vae(), clouds, noise="auto", max_steps=1, batch_size=2, held_out=0, device="cpu")
        assert result.noise == automatic_noise(list(clouds))

    def test_other_words_are_refused(self):
        with pytest.raises(TypeError, match=r'noise must be a standard deviation, .*, or "auto", got \'automatic\''):
            self.run(sphere(500), noise="automatic")
