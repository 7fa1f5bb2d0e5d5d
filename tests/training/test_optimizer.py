"""Optimizers of the user's: stepped by the schedule, and resumed to the last bit like Adam."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.resumable_run import losses_of, run, stop_at
from helpers.stand_ins import DiagonalGaussian, same_state, small_stack, some_points
from pyro_pcflow.training import Objective, toml
from pyro_pcflow.training.optimizer import adam, build

FACTORIES = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True),
    "plain SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    # Neither is ever fused, and the second has a state before its first step.
    "Adamax": lambda parameters: torch.optim.Adamax(parameters, lr=0.01),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01, initial_accumulator_value=0.1),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, centered=True, momentum=0.5),
}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("stop", [2, 12])
def test_a_stopped_run_ends_with_the_same_bits(name, stop, tmp_path):
    options = {"optimizer": FACTORIES[name], "max_steps": 15}
    whole, _ = run(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", before_step=stop_at(stop), **options)
    resumed, _ = run(tmp_path / "stopped", **options)
    assert same_state(resumed.state_dict(), whole.state_dict())
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")


def test_the_schedule_multiplies_its_rate():
    options = {"warmup_steps": 0, "max_steps": 4, "log_every": 1, "device": "cpu"}
    ours = [line["lr"] for line in fit(small_stack(), some_points(), lr=0.01, **options).history]
    theirs = fit(small_stack(), some_points(), optimizer=FACTORIES["AdamW"], **options).history
    assert [line["lr"] for line in theirs] == ours
    assert ours[0] == 0.01


def test_plain_descent_is_what_it_says():
    """One step along the gradient, by the schedule's first rate."""
    module, points = DiagonalGaussian(), some_points()
    gradient = -points.mean(0)
    factory = FACTORIES["plain SGD"]
    options = {"warmup_steps": 0, "grad_clip": float("inf"), "ema_decay": 0.0, "device": "cpu"}
    fit(module, points, optimizer=factory, held_out=0, batch_size=len(points), max_steps=1, **options)
    assert torch.allclose(module.loc.detach(), -0.01 * gradient, atol=1e-6)


def test_a_run_is_resumed_with_the_same_optimizer_alone(tmp_path):
    options = {"max_steps": 3, "out": tmp_path, "resume": True, "device": "cpu"}
    fit(small_stack(), some_points(), optimizer=FACTORIES["AdamW"], **options)
    described = toml.read(tmp_path / "config.toml")["settings"]
    assert described["lr"] == 0.01
    assert described["optimizer"]["class"] == "AdamW"
    assert described["optimizer"]["weight_decay"] == 0.1
    for other in (FACTORIES["SGD"], lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.2)):
        with pytest.raises(ValueError, match=r"settings\.optimizer was"):
            fit(small_stack(), some_points(), optimizer=other, **options)
    with pytest.raises(ValueError, match=r"settings\.optimizer was .* and is None"):
        fit(small_stack(), some_points(), lr=0.01, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["momentum_buffer"].resize_(3), r"momentum_buffer: torch.float32 of shape \(3,\)"),
        (lambda state: state["momentum_buffer"].fill_(float("nan")), "momentum_buffer: numbers that are not finite"),
        (lambda state: state.update(more=1), "other entries than the module has: more"),
        (lambda state: state.update(momentum_buffer=None), "momentum_buffer: None, expected a tensor"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, words, tmp_path):
    options = {"max_steps": 3, "optimizer": FACTORIES["SGD"], "out": tmp_path, "resume": True, "device": "cpu"}
    fit(small_stack(), some_points(), **options)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    change(state["optimizer"]["state"][0])
    torch.save(state, tmp_path / "checkpoint.pt")
    module = small_stack()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        fit(module, some_points(), **{**options, "max_steps": 5})
    assert same_state(module.state_dict(), before)


@pytest.mark.parametrize(
    ("factory", "kind", "words"),
    [
        (lambda parameters: None, TypeError, r"it returned a NoneType"),
        (torch.optim.SGD([torch.zeros(1, requires_grad=True)]), TypeError, "must be a function .*; got a SGD"),
        (lambda parameters: torch.optim.SGD([torch.zeros(1, requires_grad=True)]), ValueError, "one group"),
        (lambda parameters: torch.optim.SGD(parameters, lr=0.0), ValueError, "a learning rate above 0"),
    ],
)
def test_wrong_factories(factory, kind, words, tmp_path):
    with pytest.raises(kind, match=words):
        fit(DiagonalGaussian(), some_points(), optimizer=factory, max_steps=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_rate_is_given_once():
    with pytest.raises(ValueError, match="give yours its learning rate"):
        fit(DiagonalGaussian(), some_points(), optimizer=FACTORIES["SGD"], lr=0.1, max_steps=1)


def test_adam_is_fused():
    assert build(adam(0.1, (0.9, 0.999)), torch.nn.Parameter(torch.zeros(3))).param_groups[0]["fused"]


class Flat(Objective):
    """A loss without a slope: what moves then is moved by decay alone."""

    def __init__(self, module):
        self.module = module

    def batch(self, step):
        return None

    def loss(self, batch):
        return 0.0 * sum(parameter.sum() for parameter in self.module.parameters())


def decayed(asked=None, **options):
    """What is left of weights of 2 after a step at a rate of 0.1: of an inner layer, the rest of its part, another."""
    module = torch.nn.ModuleDict({"part": torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))})
    module["part_of_another_name"] = torch.nn.Linear(1, 1)
    for parameter in module.parameters():
        parameter.data.fill_(2.0)
    if asked is not None:
        module.weight_decay = asked
    fit(module, objective=Flat(module), max_steps=1, warmup_steps=0, ema_decay=0.0, device="cpu", **options)
    layers = [*module["part"], module["part_of_another_name"]]
    assert all(torch.equal(layer.weight.view(1), layer.bias) for layer in layers)
    return [layer.bias.item() / 2 for layer in layers]


@pytest.mark.parametrize(
    ("weight_decay", "left"),
    [
        (0.5, [0.95, 0.95, 0.95]),
        ({"part": 0.5}, [0.95, 0.95, 1]),
        # The inner part decides, in whatever order they are named.
        ({"part.0": 0.2, "part": 0.5}, [0.98, 0.95, 1]),
        ({"part": 0.5, "part.0": 0.0}, [1, 0.95, 1]),
        ({"part": 0.5, "": 0.2}, [0.95, 0.95, 0.98]),
        ({"part.1.bias": 0.2, "part.1.weight": 0.2}, [1, 0.98, 1]),
        (0, [1, 1, 1]),
        ({}, [1, 1, 1]),
        (None, [1, 1, 1]),
    ],
)
def test_weights_lose_the_rate_times_their_decay(weight_decay, left):
    assert decayed(lr=0.1, weight_decay=weight_decay) == pytest.approx(left, abs=1e-6)


def test_a_module_may_say_which_decay_suits_it():
    """Unless one is given, or an optimizer, which has its own."""
    assert decayed({"part": 0.5}, lr=0.1) == pytest.approx([0.95, 0.95, 1], abs=1e-6)
    assert decayed(0.5, lr=0.1) == pytest.approx([0.95] * 3, abs=1e-6)
    assert decayed({"part": 0.5}, lr=0.1, weight_decay=0) == [1, 1, 1]
    assert decayed({"part": 0.5}, optimizer=FACTORIES["plain SGD"]) == [1, 1, 1]


@pytest.mark.parametrize(("prior", "expected"), [("flow", {"prior": 2.0}), ("normal", 0.0)])
def test_of_a_model_of_clouds_a_flow_prior_decays_alone(prior, expected, tmp_path):
    """Along a loss without a slope, after a step at a rate of 0.1."""
    vae = pcf.PointCloudVAE(3, 2, prior=prior, decoder={"num_couplings": 1, "hidden_dims": [4]})
    before = {name: parameter.detach().clone() for name, parameter in vae.named_parameters()}
    fit(vae, objective=Flat(vae), max_steps=1, lr=0.1, warmup_steps=0, ema_decay=0.0, device="cpu", out=tmp_path)
    assert toml.read(tmp_path / "config.toml")["settings"]["weight_decay"] == expected
    for name, parameter in vae.named_parameters():
        share = 0.8 if name.startswith("prior.") else 1.0
        torch.testing.assert_close(parameter.detach(), share * before[name], rtol=1e-5, atol=1e-7)


def test_a_decay_of_no_part(tmp_path):
    for part in ("par", "part.2"):
        with pytest.raises(ValueError, match=f"ModuleDict has no part '{part}' with parameters; it has part, part_of"):
            decayed(lr=0.1, weight_decay={part: 0.5}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_frozen_part_does_not_decay():
    module = DiagonalGaussian()
    module.loc.data.fill_(2.0)
    module.log_scale.data.fill_(2.0)
    module.loc.requires_grad_(False)
    options = {"warmup_steps": 0, "ema_decay": 0.0, "lr": 0.1, "device": "cpu"}
    fit(module, objective=Flat(module), max_steps=1, weight_decay={"loc": 0.5, "log_scale": 0.5}, **options)
    assert module.loc.tolist() == [2] * 3
    assert module.log_scale.tolist() == pytest.approx([1.9] * 3)


def test_one_step_with_a_decay_is_that_of_adamw():
    """Loshchilov and Hutter (2019), algorithm 2, as torch has it."""
    ours, theirs = DiagonalGaussian(), DiagonalGaussian()
    for module in (ours, theirs):
        module.loc.data.fill_(2.0)
    options = {"batch_size": 100, "max_steps": 5, "held_out": 0, "device": "cpu"}
    fit(ours, some_points(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.999), **options)
    fit(theirs, some_points(), optimizer=FACTORIES["AdamW"], **options)
    assert torch.allclose(ours.loc, theirs.loc, rtol=0, atol=1e-6)


def test_a_resumed_run_has_the_same_decay(tmp_path):
    """Whatever a module asks for by then."""
    module = DiagonalGaussian()
    module.weight_decay = {"loc": 0.5}
    options = {"out": tmp_path, "resume": True, "device": "cpu"}
    fit(module, some_points(), max_steps=2, **options)
    assert toml.read(tmp_path / "config.toml")["settings"]["weight_decay"] == {"loc": 0.5}
    module.weight_decay = {"loc": 0.2}
    with pytest.raises(ValueError, match=r"weight_decay was {'loc': 0.5} and is {'loc': 0.2}"):
        fit(module, some_points(), max_steps=3, **options)
    assert fit(module, some_points(), max_steps=3, weight_decay={"loc": 0.5}, **options).steps == 3


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_betas_are_those_of_adam(betas):
    """Two steps of Adam by hand, of a gradient that is that of the whole data (Kingma and Ba 2015, algorithm 1)."""
    module, points = DiagonalGaussian(), some_points()
    module.log_scale.requires_grad_(False)
    rates = [line["lr"] for line in fit(
        module, points, betas=betas, batch_size=len(points), max_steps=2, held_out=0, ema_decay=0.0, lr=0.1,
        warmup_steps=0, grad_clip=float("inf"), log_every=1, device="cpu",
    ).history]  # fmt: skip
    loc, mean, square = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for step, rate in enumerate(rates, 1):
        gradient = loc - points.mean(0)
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        loc = loc - rate * (mean / (1 - betas[0] ** step)) / ((square / (1 - betas[1] ** step)).sqrt() + 1e-8)
    assert torch.allclose(module.loc.detach(), loc, atol=1e-5)


def test_an_optimizer_of_yours_has_its_own_betas_and_decay():
    for option in ({"betas": (0.5, 0.9)}, {"weight_decay": 0.1}):
        with pytest.raises(ValueError, match="betas and weight_decay are those of fit's own optimizer"):
            fit(DiagonalGaussian(), some_points(), optimizer=FACTORIES["SGD"], max_steps=1, **option)
