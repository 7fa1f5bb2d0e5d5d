"""Augmentation: what it does to clouds, and that it is the same for both samples of one, and nothing else's concern."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.small_vae import make_vae
from helpers.stand_ins import same_state
from pyro_pcflow.training import EvidenceLowerBound, ExactLikelihood, Mirror, RotateSlightly, ScaleAxes, Shift, toml
from pyro_pcflow.training.augmentation import FEW_CLOUDS, augmented, automatic_augmentations, named
from pyro_pcflow.training.cloud_batches import CloudBatches
from pyro_pcflow.training.options import CloudSampling
from pyro_pcflow.training.sources import Clouds

ALL = [ScaleAxes(0.3), Mirror(1), RotateSlightly(40), RotateSlightly(40, axis=0), Shift(0.5)]
OF_TWO = [ScaleAxes(0.3), Mirror(1), RotateSlightly(40), Shift(0.5)]
CASES = [*((one, 3) for one in ALL), *((one, 2) for one in OF_TWO)]


def affine(augment, point_dim, count=2000):
    """The affine map that each cloud went through, (B, D, D) and (B, D), found from its values at D + 1 points."""
    corners = torch.cat([torch.zeros(1, point_dim), torch.eye(point_dim)]).double().expand(count, -1, -1)
    torch.manual_seed(3)
    changed = augment(corners)
    return (changed[:, 1:] - changed[:, :1]).transpose(-1, -2), changed[:, 0]


@pytest.mark.parametrize(("augment", "point_dim"), CASES, ids=str)
def test_each_cloud_is_changed_as_a_whole_and_otherwise_than_the_next(augment, point_dim):
    clouds = torch.randn(1, 50, point_dim, dtype=torch.float64).expand(8, -1, -1)
    changed = augment(clouds)
    assert (changed.shape, changed.dtype) == (clouds.shape, clouds.dtype)
    homogeneous = torch.cat([clouds, torch.ones_like(clouds[..., :1])], -1)
    # One affine map explains all points of a cloud.
    assert torch.allclose(homogeneous @ torch.linalg.lstsq(homogeneous, changed).solution, changed, atol=1e-10)
    assert len(changed[:, 0].unique(dim=0)) == (2 if isinstance(augment, Mirror) else 8)


def test_axes_are_scaled_by_factors_of_their_own():
    matrix, origin = affine(ScaleAxes(0.3), 3)
    logs = matrix.diagonal(dim1=-2, dim2=-1).log()
    assert torch.allclose(matrix, torch.diag_embed(logs.exp()))
    assert origin.abs().max() == 0
    assert torch.allclose(logs.mean(0), torch.zeros(3).double(), atol=0.03)
    assert torch.allclose(logs.T.cov(), 0.09 * torch.eye(3).double(), atol=0.01)


def test_a_centre_stays_where_it_is():
    matrix, origin = affine(ScaleAxes(0.3, centre=(1.0, -2.0, 500.0)), 3)
    centre = torch.tensor([1.0, -2.0, 500.0]).double()
    assert torch.allclose(matrix @ centre + origin, centre)
    assert torch.allclose(matrix.diagonal(dim1=-2, dim2=-1).log().std(0), torch.full((3,), 0.3).double(), atol=0.03)
    with pytest.raises(ValueError, match="points of 2 coordinates have a centre of as many"):
        ScaleAxes(0.3, centre=(1.0, 2.0, 3.0))(torch.zeros(1, 4, 2))


class TestAutomatic:
    def test_few_clouds_are_changed_the_more_the_fewer_they_are(self):
        points = 7 + 3 * torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
        for count, std in ((10, 0.2), (52, 0.2), (225, 0.1), (FEW_CLOUDS - 1, 0.075)):
            scale, shift = automatic_augmentations(count, points)
            assert scale.std == std
            assert shift.std == pytest.approx(1.5 * std, rel=0.1)
            assert scale.centre == pytest.approx((7, 7, 7), abs=0.2)

    @pytest.mark.parametrize(("count", "point_dim"), [(FEW_CLOUDS, 3), (10_000, 3), (10, 1), (10, 6)])
    def test_many_clouds_and_those_of_other_coordinates_are_left_alone(self, count, point_dim):
        assert automatic_augmentations(count, torch.randn(100, point_dim)) == ()

    def test_one_point_has_no_deviation(self):
        assert automatic_augmentations(1, torch.zeros(1, 3)) == ()

    @pytest.mark.filterwarnings("ignore:.*has the units of other points")
    def test_fit_says_it_and_keeps_it(self, tmp_path, caplog):
        clouds = 100 + torch.randn(20, 80, 3, generator=torch.Generator().manual_seed(0))
        options = {"max_steps": 1, "device": "cpu", "pictures": False}
        fit(make_vae(), clouds, out=tmp_path / "auto", **options)
        fit(make_vae(), clouds, out=tmp_path / "none", augment=None, **options)
        (line,) = [record.getMessage() for record in caplog.records if "augment" in record.getMessage()]
        kept = toml.read(tmp_path / "auto" / "config.toml")["data"]["augment"]
        assert line.endswith(" and ".join(kept))
        assert [name.partition("(")[0] for name in kept] == ["ScaleAxes", "Shift"]
        assert "augment" not in toml.read(tmp_path / "none" / "config.toml")["data"]

    def test_clouds_stay_about_where_they_are(self):
        clouds = 100 + torch.randn(20, 80, 3, generator=torch.Generator().manual_seed(0)).double()
        batch = EvidenceLowerBound(make_vae(), clouds, held_out=0).batch(0)
        assert abs(batch.clouds.mean() - 100) < 0.5
        assert not torch.isclose(batch.clouds[:, :, None], clouds[batch.index][:, None]).all(-1).any()

    @pytest.mark.parametrize("kind", ["density", "auto-decoder", "held out"])
    def test_nothing_else_is_changed(self, kind):
        clouds = torch.randn(20, 80, 3, generator=torch.Generator().manual_seed(0)).double()
        if kind == "density":
            assert (
                ExactLikelihood(pcf.PointCloudFlow(3, num_couplings=1, hidden_dims=[4]), clouds.float()).augmentations
                == ()
            )
        elif kind == "auto-decoder":
            decoder = {"num_couplings": 1, "hidden_dims": [4]}
            model = pcf.models.AutoDecoder(20, 3, 4, decoder=decoder, prior_options=decoder)
            assert EvidenceLowerBound(model, clouds.float(), held_out=0).augmentations == ()
        else:
            (batch,) = EvidenceLowerBound(make_vae(), clouds, held_out=clouds).held_out
            assert torch.isclose(batch.clouds[:, :, None], clouds[:, None]).all(-1).any(-1).all()


def test_half_of_the_clouds_are_mirrored():
    matrix, origin = affine(Mirror(2), 3)
    signs = matrix.diagonal(dim1=-2, dim2=-1)
    assert torch.equal(matrix, torch.diag_embed(signs))
    assert origin.abs().max() == 0
    assert torch.equal(signs[:, :2], torch.ones(2000, 2).double())
    assert {*signs[:, 2].tolist()} == {-1.0, 1.0}
    assert abs(signs[:, 2].mean()) < 0.1


@pytest.mark.parametrize("point_dim", [2, 3])
@pytest.mark.parametrize("axis", [None, 1])
def test_rotations_have_the_angle_that_was_asked_for(point_dim, axis):
    if point_dim == 2 and axis is not None:
        with pytest.raises(ValueError, match="points of two coordinates turn in their plane: leave axis out"):
            RotateSlightly(10, axis)(torch.zeros(1, 1, 2))
        return
    matrix, origin = affine(RotateSlightly(20, axis), point_dim)
    identity = torch.eye(point_dim).double()
    assert torch.allclose(matrix @ matrix.transpose(-1, -2), identity.expand_as(matrix), atol=1e-12)
    assert torch.allclose(torch.linalg.det(matrix), torch.ones(2000).double())
    assert origin.abs().max() == 0
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    angles = (((trace - 1) if point_dim == 3 else trace) / 2).clamp(-1, 1).acos()
    assert abs(angles.square().mean().sqrt() - math.radians(20)) < 0.02
    if axis is not None:
        assert torch.equal(matrix[:, axis], identity[axis].expand(2000, -1))
    # To both sides alike.
    assert torch.allclose(matrix.mean(0), matrix.mean(0).T, atol=0.02)


def test_a_rotation_of_known_axis_is_that_of_the_matrix_exponential():
    turns = affine(RotateSlightly(50, axis=2), 3, count=5)[0]
    angles = torch.atan2(turns[:, 1, 0], turns[:, 0, 0])
    cross = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]]).double()
    assert torch.allclose(turns, torch.linalg.matrix_exp(angles[:, None, None] * cross), atol=1e-12)


def test_shifts_have_the_deviation_that_was_asked_for():
    matrix, origin = affine(Shift(0.5), 3)
    assert torch.allclose(matrix, torch.eye(3).double().expand_as(matrix))
    assert torch.allclose(origin.T.cov(), 0.25 * torch.eye(3).double(), atol=0.03)


@pytest.mark.parametrize("augment", ALL, ids=str)
@pytest.mark.parametrize("point_dim", [1, 4, 6])
def test_normals_and_colours_are_for_the_user_to_change(augment, point_dim):
    with pytest.raises(ValueError, match=rf"changes points of 2 or 3 coordinates, got {point_dim}: what it would do"):
        augment(torch.zeros(2, 5, point_dim))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: ScaleAxes("much"), TypeError, "std must be a number, got 'much'"),
        (lambda: ScaleAxes(-0.1), ValueError, "std must be at least 0 and finite, got -0.1"),
        (lambda: Shift(math.inf), ValueError, "std must be at least 0 and finite"),
        (lambda: Mirror(3), ValueError, "axis must be 0, 1 or 2, got 3"),
        (lambda: Mirror(True), TypeError, "axis must be the number of a coordinate"),
        (lambda: RotateSlightly(axis="x"), TypeError, "axis must be the number of a coordinate, from 0, got 'x'"),
        (
            lambda: Mirror(2)(torch.zeros(1, 1, 2)),
            ValueError,
            r"Mirror\(axis=2\): points of 2 coordinates have no axis 2",
        ),
    ],
)
def test_wrong_options_are_named(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_names_for_the_run_folder():
    def twice(clouds):
        return 2 * clouds

    class Halved:
        def __call__(self, clouds):
            return clouds / 2

    names = named([ScaleAxes(), Mirror(1), twice, Halved()])
    assert names[:2] == ["ScaleAxes(std=0.1)", "Mirror(axis=1)"]
    assert [name.rpartition(".")[2] for name in names[2:]] == ["twice", "Halved"]


class TestBatches:
    """Of clouds whose first coordinate is the number of the cloud, so that each point tells where it is from."""

    sizes = (200, 90, 64, 10, 150, 120)

    def objective(self, augment=None, **options):
        clouds = [torch.randn(size, 3, generator=torch.Generator().manual_seed(size)) for size in self.sizes]
        options = {"batch_size": 4, "held_out": 0.3, "noise": 0.1, "seed": 7, **options}
        return EvidenceLowerBound(make_vae(), clouds, sampling=CloudSampling(augment=augment), **options)

    def test_both_samples_of_a_cloud_are_changed_alike(self):
        plain, changed = (self.objective(one, noise=0.0).batch(3) for one in (None, [ScaleAxes(0.5), Shift(1.0)]))
        factors = []
        for points, others, mask in (
            (plain.clouds, changed.clouds, plain.mask),
            (plain.encoder_points, changed.encoder_points, plain.encoder_mask),
        ):
            assert mask is not None
            assert torch.equal(others[~mask], torch.zeros_like(others[~mask]))
            for index in range(len(points)):
                ones = torch.cat([points[index], torch.ones_like(points[index, :, :1])], -1)[mask[index]].double()
                factors.append(torch.linalg.lstsq(ones, others[index][mask[index]].double()).solution)
        count = len(plain.clouds)
        for first, second in zip(factors[:count], factors[count:], strict=True):
            assert torch.allclose(first, second, atol=1e-4)
        assert not torch.allclose(factors[0], factors[1], atol=0.1)

    def test_held_out_clouds_are_not_changed(self):
        plain, changed = self.objective(), self.objective(Shift(100.0))
        for one, other in zip(plain.held_out, changed.held_out, strict=True):
            assert torch.equal(one.clouds, other.clouds)
            assert torch.equal(one.encoder_points, other.encoder_points)
        assert torch.equal(plain.points_for_units(), changed.points_for_units())

    def test_it_follows_from_seed_and_step_alone(self):
        first, second = self.objective(ScaleAxes(), noise=0.0), self.objective(ScaleAxes(), noise=0.0)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = first.batch(5)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(one.clouds, second.batch(5).clouds)
        assert not torch.equal(
            self.objective(ScaleAxes(), noise=0.0, batch_size=100).batch(0).clouds.sum(),
            self.objective(ScaleAxes(), noise=0.0, batch_size=100).batch(1).clouds.sum(),
        )

    def test_processes_have_the_rows_of_one_batch(self):
        objective = self.objective(ScaleAxes(), noise=0.0)
        batch = objective.batch(2)
        parts = [objective.share(objective.batch(2), rank, 2) for rank in range(2)]
        assert torch.equal(torch.cat([part.clouds for part in parts]), batch.clouds)

    def test_the_run_folder_has_its_name(self, tmp_path):
        clouds = torch.randn(12, 80, 3)
        options = {"max_steps": 2, "batch_size": 4, "out": tmp_path, "device": "cpu", "pictures": False}
        fit(make_vae(), clouds, augment=[ScaleAxes(), Mirror()], **options)
        assert toml.read(tmp_path / "config.toml")["data"]["augment"] == ["ScaleAxes(std=0.1)", "Mirror(axis=0)"]
        with pytest.raises(ValueError, match=r"data\.augment was .*ScaleAxes.* and is None"):
            fit(make_vae(), clouds, augment=None, resume=True, **options)

    @pytest.mark.parametrize("stop", [2, 5])
    def test_a_stopped_run_ends_with_the_same_bits(self, stop, tmp_path):
        class Stop(pcf.training.Callback):
            def on_log(self, progress, line):
                if progress.step == stop:
                    raise KeyboardInterrupt

        clouds = torch.randn(12, 80, 3, generator=torch.Generator().manual_seed(1))
        options = {"max_steps": 6, "batch_size": 4, "device": "cpu", "pictures": False, "log_every": 1, "noise": 0.1}
        options["augment"] = [RotateSlightly(), Shift(0.1)]
        whole, stopped, resumed = make_vae(), make_vae(), make_vae()
        fit(whole, clouds, out=tmp_path / "whole", **options)
        with pytest.raises(KeyboardInterrupt):
            fit(stopped, clouds, out=tmp_path / "stopped", callbacks=[Stop()], **options)
        fit(resumed, clouds, out=tmp_path / "stopped", resume=True, **options)
        assert same_state(resumed.state_dict(), whole.state_dict())


def test_whole_clouds_are_changed_once():
    """A model whose signatures name no points of an encoder gets one sample."""
    calls = []

    def note(clouds):
        calls.append(clouds.shape)
        return clouds + 1

    batches = CloudBatches(Clouds(torch.zeros(4, 100, 3)), 2, 32, 40, seed=0, split=False, augment=[note])
    batch = batches.batch(0)
    assert calls == [(2, 100, 3)]
    assert torch.equal(batch.clouds, torch.ones(2, 100, 3))
    assert torch.equal(batch.encoder_points, batch.clouds)


def test_clouds_with_contexts_are_changed_too():
    flow = pcf.PointCloudFlow(2, context_dim=1, num_couplings=2, hidden_dims=[8])
    data = (torch.randn(10, 40, 2), torch.rand(10, 1))
    plain, changed = (
        ExactLikelihood(flow, data, batch_size=128, sampling=CloudSampling(augment=augment))
        for augment in (None, Shift(10.0))
    )
    moves = changed.batch(0).points - plain.batch(0).points
    assert torch.allclose(moves, moves[:, :1].expand_as(moves), atol=1e-4)
    assert moves.abs().max() > 1
    assert torch.equal(plain.held_out[0].points, changed.held_out[0].points)
    assert changed.description()["augment"] == ["Shift(std=10.0)"]


def test_a_density_of_points_refuses_it():
    flow = pcf.PointCloudFlow(2, num_couplings=2, hidden_dims=[8])
    with pytest.raises(ValueError, match="augment is for many clouds: a density of points would learn that of all"):
        fit(flow, torch.randn(100, 2), augment=Shift(0.1), max_steps=1)


def test_a_model_with_an_embedding_per_cloud_refuses_it():
    model = pcf.models.AutoDecoder(6, 3, 4, decoder={"num_couplings": 2, "hidden_dims": [8]})
    with pytest.raises(ValueError, match="AutoDecoder has one embedding for each training cloud: leave it out"):
        fit(model, torch.randn(6, 80, 3), held_out=0, augment=Shift(0.1), max_steps=1)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda clouds: clouds[:, :-1], r"lambda> of clouds .* of shape \(2, 7, 3\) returned .* of shape \(2, 6, 3\)"),
        (lambda clouds: clouds.double(), "returned torch.float64 of shape"),
        (lambda clouds: None, "returned None: expected the same shape"),
    ],
)
def test_a_function_that_returns_something_else_is_named(function, words):
    with pytest.raises(ValueError, match=words):
        augmented([function], 0, 0, [(torch.zeros(2, 3, 3), None), (torch.zeros(2, 4, 3), None)])
