"""Options of a training, checked where they are made."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.training import CloudSampling, Logging, Optimization, ScaleAxes
from pyro_pcflow.training.options import Settings, as_device


@pytest.mark.parametrize("options", [Optimization, CloudSampling, Logging])
def test_they_are_frozen_and_by_name(options):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options(), dataclasses.fields(options)[0].name, 1)
    with pytest.raises(TypeError, match="positional"):
        options(1)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: Optimization(warmup_steps=-1), ValueError, "warmup_steps must be at least 0, got -1"),
        (lambda: Optimization(warmup_steps=1.5), TypeError, "warmup_steps must be an integer, got 1.5"),
        (lambda: Optimization(grad_clip=None), TypeError, r"grad_clip must be positive \(.*\), got None"),
        (lambda: Optimization(ema_decay="slow"), TypeError, "ema_decay must be at least 0 and below 1, got 'slow'"),
        (lambda: Optimization(grad_clip=0.0), ValueError, "grad_clip must be positive"),
        (lambda: Optimization(ema_decay=1.0), ValueError, "ema_decay must be at least 0 and below 1"),
        (lambda: Optimization(precision="half"), ValueError, "precision must be one of full, bfloat16"),
        (lambda: Optimization(betas=0.9), TypeError, r"betas must be two numbers, such as \(0.9, 0.999\), got 0.9"),
        (lambda: Optimization(betas=(0.9, 1.0)), ValueError, "betas must be two numbers, at least 0 and below 1"),
        (lambda: Optimization(weight_decay=-1), ValueError, "weight_decay must be at least 0 and finite, got -1"),
        (lambda: Optimization(weight_decay={"prior": -1}), ValueError, "weight_decay of 'prior' must be at least 0"),
        (lambda: Optimization(weight_decay=["prior"]), TypeError, "weight_decay must be at least 0 .* got"),
        (lambda: Optimization(patience=0), ValueError, "patience must be at least 1, got 0"),
        (lambda: CloudSampling(augment=3), TypeError, "augment: expected a function .* or None, got 3"),
        (lambda: CloudSampling(augment=[ScaleAxes]), TypeError, r"got <class .*ScaleAxes'>: ScaleAxes\(\) makes one"),
        (lambda: CloudSampling(target_points=0), ValueError, "target_points must be at least 1"),
        (lambda: CloudSampling(encoder_points=0), ValueError, "encoder_points must be at least 1"),
        (lambda: CloudSampling(encoder_points=(8, 4)), ValueError, "the second of encoder_points must be at least 8"),
        (lambda: CloudSampling(encoder_points=(8,)), ValueError, "encoder_points must be a number or a pair"),
        (lambda: CloudSampling(encoder_points="many"), TypeError, "encoder_points must be an integer, got 'many'"),
        (lambda: CloudSampling(most_points=0), ValueError, "most_points must be at least 1"),
        (lambda: CloudSampling(augment="much"), TypeError, "augment: expected a function .* or None, got 'much'"),
        (lambda: CloudSampling(kl_warmup_steps=-2), ValueError, "kl_warmup_steps must be at least 0"),
        (lambda: Logging(log_every=0), ValueError, "log_every must be at least 1"),
        (lambda: Logging(checkpoint_seconds=math.nan), ValueError, "checkpoint_seconds must be positive"),
        (lambda: Logging(pictures="y"), TypeError, "pictures must be True, False, or a callback"),
    ],
)
def test_wrong_options_are_named(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


@pytest.mark.parametrize(
    ("name", "kind"), [("optimization", "Optimization"), ("logging", "Logging"), ("sampling", "CloudSampling")]
)
def test_options_in_a_dict_are_refused_by_name(name, kind):
    flow = pcf.PointCloudFlow(2, num_couplings=2, hidden_dims=[4])
    with pytest.raises(TypeError, match=rf"^{name} must be a pyro_pcflow\.training\.{kind}, got {{'a': 1}}"):
        pcf.fit(flow, torch.randn(50, 2), max_steps=1, **{name: {"a": 1}})


def test_what_describes_a_run_leaves_out_what_is_shown():
    settings = Settings(5, None, 0.1, 3, Optimization(), Logging(progress=False, pictures=False))
    assert {"max_steps", "lr", "seed", "warmup_steps", "log_every"} <= settings.plain().keys()
    assert not {"progress", "pictures"} & settings.plain().keys()


def test_fit_has_few_arguments():
    assert len(inspect.signature(pcf.fit).parameters) <= 18


def test_devices():
    assert as_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert as_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device None"):
        as_device(None)
