"""Bodies are drawn alike each time, as the examples were, and a stopped call goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import pyro_pcflow as pcf
from benchmarks.tools import make_bodies
from benchmarks.tools.make_bodies import BODIES_AT_ONCE, FACTORS, TURNS, sample_bodies, write_bodies


class Puppet:
    """Stands in for Anny: a cuboid, as high as the factor says, which the left leg's bone turns; keeps what it got."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at, self.factors, self.turns = 0, fails_at, [], []

    def get_triangular_faces(self):
        x = [[0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6]]
        y = [[0, 1, 5], [0, 5, 4], [2, 3, 7], [2, 7, 6]]
        z = [[0, 2, 6], [0, 6, 4], [1, 3, 7], [1, 7, 5]]
        return torch.tensor(x + y + z)

    def __call__(self, phenotype_kwargs, pose_parameters):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.factors.append(torch.stack(list(phenotype_kwargs.values()), 1))
        self.turns.append(torch.stack(list(pose_parameters.values()), 1))
        corners = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0]).double()])
        sides = torch.tensor([1.0, 2.0, 4.0]) * (1 + phenotype_kwargs["height"][:, None, None])
        return {"vertices": (corners * sides) @ pose_parameters["upperleg01.L"][:, :3, :3].mT}


def drawn(clouds):
    return torch.from_numpy(clouds).float()


def test_conventions_of_the_examples():
    clouds = drawn(sample_bodies(Puppet(), range(40), 500))
    low, high = clouds.amin(1), clouds.amax(1)
    torch.testing.assert_close(low, -high)
    torch.testing.assert_close(high.amax(1), torch.ones(40))


def test_points_are_uniform_by_area(monkeypatch):
    monkeypatch.setitem(make_bodies.TURNS, "upperleg01.L", 0.0)
    cloud = sample_bodies(Puppet(), range(1), 20_000)[0]
    half = cloud.max(0)
    on_side = (np.abs(np.abs(cloud) - half) < 1e-9).mean(0)
    # Half sides of 1, 2 and 4.
    assert on_side == pytest.approx(np.array([8, 4, 2]) / 14, abs=0.02)


def test_factors_and_turns_have_the_distribution_of_the_examples():
    puppet = Puppet()
    sample_bodies(puppet, range(2000), 4)
    factors = dict(zip(FACTORS, puppet.factors[0].numpy().T, strict=True))
    for name, values in factors.items():
        expected = (0.665, 0.193) if name == "age" else (0.5, 0.05**0.5)
        assert (values.mean(), values.std()) == pytest.approx(expected, abs=0.02)
    turns = Rotation.from_matrix(puppet.turns[0][..., :3, :3].reshape(-1, 3, 3)).as_rotvec().reshape(2000, -1, 3)
    expected = np.array(list(TURNS.values()))[:, None].repeat(3, 1)
    assert turns.std(0) == pytest.approx(expected, rel=0.1)
    assert np.abs(turns.mean(0)).max() < 0.05
    assert np.abs(np.corrcoef(turns.reshape(2000, -1).T) - np.eye(3 * len(TURNS))).max() < 0.12


def test_a_body_follows_from_seed_and_number():
    clouds = sample_bodies(Puppet(), range(7), 50, seed=3)
    assert np.array_equal(clouds[2:5], sample_bodies(Puppet(), range(2, 5), 50, seed=3))
    for other in (clouds[[1, 2, 3, 4, 5, 6, 0]], sample_bodies(Puppet(), range(7), 50, seed=4)):
        assert not np.isclose(clouds, other).all((1, 2)).any()


def test_a_stopped_call_goes_on(tmp_path):
    count = 5 * BODIES_AT_ONCE + 3
    write_bodies(Puppet(), tmp_path / "whole.npy", count, 20)
    whole = pcf.data.MappedClouds(tmp_path / "whole.npy")
    assert whole.shape == (count, 20, 3)
    torch.testing.assert_close(whole[70], drawn(sample_bodies(Puppet(), range(70, 71), 20))[0], rtol=0, atol=5e-4)
    again = tmp_path / "again.npy"
    with pytest.raises(KeyboardInterrupt):
        write_bodies(Puppet(fails_at=5), again, count, 20)
    assert not again.exists()
    (unfinished,) = tmp_path.glob("*.unfinished")
    np.lib.format.open_memmap(unfinished, "r+")[4 * BODIES_AT_ONCE - 1, 7:] = 0
    puppet = Puppet()
    write_bodies(puppet, again, count, 20)
    assert puppet.calls == 3
    assert again.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"whole.npy", "again.npy"}


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "bodies.npy").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="name another file"):
        write_bodies(Puppet(), tmp_path / "bodies.npy", 3, 20)


@pytest.mark.slow
def test_bodies_of_anny_are_like_the_examples():
    anny = pytest.importorskip("anny")
    clouds = drawn(sample_bodies(anny.Anny(), range(100), 1024))
    examples = pcf.data.load_example("body")
    for statistic in (
        lambda cloud: cloud.amax(1)[:, :2],
        lambda cloud: cloud.std(1),
        lambda cloud: cloud[..., 2].quantile(torch.tensor([0.25, 0.5, 0.75]), 1).T,
    ):
        ours, theirs = statistic(clouds), statistic(examples)
        error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
        assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
