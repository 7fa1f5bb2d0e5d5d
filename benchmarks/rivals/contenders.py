"""Densities of one shape that are compared at equal seconds, and the settings that each may choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pyro_pcflow as pcf
from benchmarks.common.meshes import Shape
from benchmarks.rivals.em_mixture import fit_em_mixture
from benchmarks.rivals.fitted import Fitted, fit_flow
from benchmarks.rivals.kernel_density import fit_kernel_density
from benchmarks.rivals.pyro_stack import PyroStack
from benchmarks.rivals.zuko_nsf import ZukoNSF

Setting = Mapping[str, Any]
RATES = tuple({"lr": lr} for lr in (2.5e-3, 5e-3, 1e-2))
# Of points that have none, per half extent. Of 0.00125 to 0.01, on scans of boot and koala, a mixture by EM did best
# with 0.0025 or 0.005; zuko with 0.00125, 0.02 better than with 0.0025; Pyro's couplings diverge with less than here.
WIDER, NARROW, NARROWER = (0.005, 0.01), (0.0025, 0.005), (0.00125, 0.0025)


@dataclass(frozen=True)
class Contender:
    """How a density is trained: a function of a shape, seconds, a seed and a setting.

    Attributes:
        fit: the function.
        settings: of which the best is taken.
        raw_noises: what `noise` is tried beside each setting for points that have none; empty if it has no such option.
        needs: a package that the extra `bench` installs.
    """

    fit: Callable[..., Fitted]
    settings: tuple[Setting, ...] = ({},)
    raw_noises: tuple[float | str, ...] = NARROW
    needs: str = "pyro"

    def settings_for(self, shape: Shape) -> list[Setting]:
        """All settings to try on a shape."""
        noises: tuple[float | str, ...] = (shape.noise,) if shape.noise and self.raw_noises else self.raw_noises
        return [{**setting, "noise": noise} for setting in self.settings for noise in noises] or list(self.settings)


def flow(make: Callable[..., Any], *settings: Setting, **others: Any) -> Contender:
    """A flow at the best of several settings: three learning rates unless others are given."""
    return Contender(partial(fit_flow, make), settings or RATES, **others)


def by_default(**sizes: Any) -> Contender:
    """A flow of ours as a user has it who chooses nothing else."""
    make = partial(pcf.PointCloudFlow, 3, **sizes)
    return Contender(partial(fit_flow, make, held_out=False), raw_noises=("auto",))


def _grid(**choices: Sequence[Any]) -> tuple[Setting, ...]:
    """All combinations of choices."""
    return tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


BAR = "kernel density, by test points"
CONTENDERS = {
    "pyro": flow(PyroStack, raw_noises=WIDER),
    "pyro, splines": flow(
        partial(PyroStack, coupling="spline"), *_grid(num_couplings=(4, 8), lr=(2.5e-3, 1e-2)), raw_noises=WIDER
    ),
    "zuko": flow(ZukoNSF, *_grid(transforms=(3, 6), lr=(2.5e-3, 1e-2, 2e-2)), raw_noises=NARROWER, needs="zuko"),
    "EM": Contender(
        fit_em_mixture,
        # More components have time for fewer points.
        tuple(
            {"components": count, "points": points}
            for count, points in ((32, 80_000), (64, 80_000), (128, 40_000), (256, 20_000), (512, 20_000))
        ),
        needs="sklearn",
    ),
    "kernel density": Contender(fit_kernel_density, raw_noises=(), needs="sklearn"),
    BAR: Contender(partial(fit_kernel_density, chosen_on="test"), raw_noises=(), needs="sklearn"),
    "ours, by default": by_default(),
    "ours, affine by default": by_default(base="normal"),
    "ours, mixture by default": by_default(base="mixture", num_couplings=0),
    "ours": flow(partial(pcf.PointCloudFlow, 3, num_couplings=12, hidden_dims=(64, 64))),
    "ours, mixture": flow(
        partial(pcf.PointCloudFlow, 3, base="mixture", num_couplings=0),
        *_grid(num_components=(128, 1024), lr=(3e-3, 1.6e-2)),
    ),
}
