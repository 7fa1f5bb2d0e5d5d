"""Flows by several libraries are of one size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.rivals.libraries import CONTENDERS, Case, Ours, Pyros

SMALL = Case(clouds=2, points=80, context=4, couplings=2, hidden=16)


@pytest.mark.parametrize("kept", [1, 2])
@pytest.mark.parametrize("name", CONTENDERS)
def test_contenders_are_flows_of_one_size(name, kept):
    for package in {"zuko": ["zuko"], "FrEIA": ["FrEIA"]}.get(name, []):
        pytest.importorskip(package)
    torch.manual_seed(0)
    case = replace(SMALL, kept=kept)
    contender = CONTENDERS[name](case)
    context = torch.randn(2, 4)
    points = contender.sample(context, 80)
    assert points.shape == (2, 80, 3)
    assert contender.log_prob(points.clone(), context).shape == (2, 80)
    wanted = sum(parameter.numel() for parameter in Pyros(case).module.parameters())
    assert sum(parameter.numel() for parameter in contender.module.parameters()) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("kept", [1, 2])
def test_multiply_adds_are_those_of_the_couplings(kept):
    case = replace(SMALL, kept=kept)
    matrices = [m for part in Ours(case).flow.transform.parts for m in part.modules() if isinstance(m, torch.nn.Linear)]
    products = sum(m.weight.numel() for m in matrices if m.in_features != SMALL.context)
    assert case.multiply_adds() == case.clouds * case.points * products
