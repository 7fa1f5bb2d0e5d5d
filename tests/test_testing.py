"""A check that passes a broken layer is worth nothing."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from helpers.bend import Bend, ForgottenOption

T = pcf.transforms
SMALL = {"hidden_dims": [8, 5], "activation": "tanh"}


class Wrong(T.PointCoupling):
    def inverse_and_log_det(self, y, context=None):
        x, log_det = super().inverse_and_log_det(y, context)
        return self.spoil(x, log_det, y)


def make(spoil):
    conditioner = pcf.nn.Conditioner(2, [2], [8], activation="tanh")
    coupling = Wrong([True, True, False], T.Affine(), conditioner)
    coupling.spoil = spoil
    return coupling


@pytest.mark.parametrize(
    ("spoil", "promise"),
    [
        (lambda x, log_det, y: (x, log_det + 0.05), "Jacobian"),
        (lambda x, log_det, y: (x, -log_det), "Jacobian"),
        (lambda x, log_det, y: (x * 1.001, log_det), "must be y"),
        (
            lambda x, log_det, y: (x + 1e-3 * (y - y.mean(0)).abs().sum(), log_det),
            "must be y|another point",
        ),
        (lambda x, log_det, y: (x.detach(), log_det.detach()), "Jacobian|depend on"),
    ],
)
def test_on_a_wrong_layer(spoil, promise):
    with pytest.raises(AssertionError, match=promise):
        pcf.testing.check_transform(lambda: make(spoil))


@pytest.mark.parametrize(("forgotten", "changed"), [("parameters", "parameters"), ("copies", "sample")])
def test_on_a_layer_with_a_stale_cache(monkeypatch, forgotten, changed):
    module = pcf.transforms.cache
    if forgotten == "parameters":
        monkeypatch.setattr(module, "_joined", lambda tensors: torch.empty(0))
    else:
        monkeypatch.setattr(module, "map", lambda *_: [True], raising=False)
    with pytest.raises(AssertionError, match=f"outlive a change of the {changed}"):
        pcf.testing.check_transform(lambda: T.affine_point_coupling(3, **SMALL))


class KnowsItsMode(T.PointCoupling):
    def inverse_and_log_det(self, y, context=None):
        x, log_det = super().inverse_and_log_det(y, context)
        return (x, log_det) if self.training else (x + 0.1, log_det)


class HasAnIdleParameter(T.PointCoupling):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.idle = torch.nn.Parameter(torch.zeros(2))


class LooksAtOtherPoints(T.PointCoupling):
    """What a coupling keeps of all points of the batch shifts each; that can be undone."""

    def shift(self, points):
        return points[..., :1].mean() * points.new_tensor([0.0, 0.0, 1.0]) * (points.dim() > 1)

    def transform_and_log_det(self, x, context=None):
        y, log_det = super().transform_and_log_det(x, context)
        return y + self.shift(x), log_det

    def inverse_and_log_det(self, y, context=None):
        return super().inverse_and_log_det(y - self.shift(y), context)


class KeepsWhatItSaw(T.PointCoupling):
    def transform_and_log_det(self, x, context=None):
        self.seen = x
        return super().transform_and_log_det(x, context)


@pytest.mark.parametrize(
    ("layer", "promise"),
    [
        (KnowsItsMode, "train and eval mode must give the same bits"),
        (HasAnIdleParameter, "the density must depend on idle"),
        (LooksAtOtherPoints, "no point may depend on another point"),
        (KeepsWhatItSaw, "nothing may be kept of a sample that has died"),
    ],
)
def test_on_a_layer_that_breaks_one_promise(layer, promise):
    with pytest.raises(AssertionError, match=promise):
        pcf.testing.check_transform(
            lambda: layer([True, True, False], T.Affine(), pcf.nn.Conditioner(2, [2], [8], activation="tanh"))
        )


def test_on_a_layer_that_mixes_up_contexts():
    class Mixed(T.ConditionalPointCoupling):
        def condition(self, context):
            return super().condition(context.roll(1, 0) if context.dim() > 2 else context)

    def make():
        conditioner = pcf.nn.Conditioner(2, [2], [8], context_dim=4, activation="tanh")
        return Mixed([True, True, False], T.Affine(), conditioner, 4)

    with pytest.raises(AssertionError, match="each context must act on its own cloud alone"):
        pcf.testing.check_conditional_transform(make)


def test_they_leave_the_random_numbers_alone():
    state = torch.get_rng_state()
    pcf.testing.check_transform(lambda: T.affine_point_coupling(3, **SMALL))
    assert torch.equal(torch.get_rng_state(), state)


class WrongSlope(Bend):
    def inverse_and_log_det(self, y, parameters):
        x, log_det = super().inverse_and_log_det(y, parameters)
        return x, -log_det


class WrongInverse(Bend):
    def inverse_and_log_det(self, y, parameters):
        return super().inverse_and_log_det(y + 1e-4, parameters)


class KnowsOtherCoordinates(Bend):
    def bounded(self, parameters):
        return super().bounded(parameters - parameters.mean(-2, keepdim=True))


class OnlyOnce(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, grad):
        return grad.clone()


class NotTwice(Bend):
    def bounded(self, parameters):
        return [OnlyOnce.apply(part) for part in super().bounded(parameters)]


@pytest.mark.parametrize(
    ("wrong", "promise"),
    [
        (WrongSlope(0.5), "log_det must be the log-derivative"),
        (WrongInverse(0.5), "forward_and_log_det must undo"),
        (ForgottenOption(0.5), "config must make the same map"),
        (KnowsOtherCoordinates(0.5), "no coordinate may depend on another"),
        (NotTwice(0.5), "differentiable twice"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_on_a_map_that_breaks_one_promise(wrong, promise):
    with pytest.raises(AssertionError, match=promise):
        pcf.testing.check_elementwise(wrong)
