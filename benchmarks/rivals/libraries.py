"""Flows of one size by several libraries, as the speed benchmark calls them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import conditional_affine_coupling, permute
from torch import Tensor, nn

import pyro_pcflow as pcf


@dataclass(frozen=True)
class Case:
    """A size: clouds, points of each, size of a context, couplings, width of two hidden layers, kept coordinates."""

    clouds: int = 16
    points: int = 2048
    context: int = 128
    couplings: int = 12
    hidden: int = 128
    kept: int = 1

    def multiply_adds(self) -> int:
        """Multiplications of weights that all points need in one pass; what a context alone decides is left out."""
        outputs = 2 * (3 - self.kept)
        return self.clouds * self.points * self.couplings * self.hidden * (self.kept + self.hidden + outputs)

    def __str__(self) -> str:
        size = f"B={self.clouds} N={self.points} C={self.context} L={self.couplings} H={self.hidden}"
        return f"{size}, couplings keep {self.kept} of 3 coordinates"


class Contender(ABC):
    """A conditional flow over points in three dimensions."""

    module: nn.Module

    @abstractmethod
    def log_prob(self, points: Tensor, context: Tensor) -> Tensor:
        """From points (B, N, 3) and contexts (B, C) to log-densities (B, N)."""

    @abstractmethod
    def sample(self, context: Tensor, count: int) -> Tensor:
        """From contexts (B, C) to points (B, N, 3)."""


class Ours(Contender):
    """This library, by one of its backends."""

    def __init__(self, case: Case, backend: str = "auto") -> None:
        # A context that shifts the first layer is what others concatenate to every point.
        flow = pcf.PointCloudFlow(
            3,
            case.context,
            case.couplings,
            (case.hidden, case.hidden),
            masks="keep_one" if case.kept == 1 else "move_one",
            context_layers=[0],
            num_frequencies=0,
        )
        pcf.kernels.set_backend(flow, backend)
        self.module = self.flow = flow

    def log_prob(self, points: Tensor, context: Tensor) -> Tensor:
        return self.flow.log_prob(points, context.unsqueeze(-2))

    def sample(self, context: Tensor, count: int) -> Tensor:
        return self.flow.cloud(context, num_points=count).sample()


class Pyros(Contender):
    """Pyro's own conditional affine couplings, with a cyclic permutation between them."""

    def __init__(self, case: Case) -> None:
        hidden = [case.hidden, case.hidden]
        self.couplings: Any = nn.ModuleList(
            conditional_affine_coupling(3, case.context, hidden, split_dim=case.kept) for _ in range(case.couplings)
        )
        self.module = self.couplings
        self.turn = permute(3, torch.arange(3).roll(1))

    def _density(self, context: Tensor, count: int) -> dist.TransformedDistribution:
        context = context.unsqueeze(-2).expand(-1, count, -1)
        parts: list[Any] = []
        for coupling in self.couplings:
            parts += [self.turn, coupling.condition(context)] if parts else [coupling.condition(context)]
        noise = dist.Normal(context.new_zeros(*context.shape[:-1], 3), 1.0).to_event(1)
        return dist.TransformedDistribution(noise, parts)

    def log_prob(self, points: Tensor, context: Tensor) -> Tensor:
        return self._density(context, points.shape[-2]).log_prob(points)

    def sample(self, context: Tensor, count: int) -> Tensor:
        return self._density(context, count).sample()


class Zukos(Contender):
    """zuko's affine couplings, which keep one coordinate and two in turn."""

    def __init__(self, case: Case) -> None:
        import zuko

        self.module = self.flow = zuko.flows.NICE(
            3, case.context, transforms=case.couplings, hidden_features=(case.hidden, case.hidden), randmask=False
        )

    def log_prob(self, points: Tensor, context: Tensor) -> Tensor:
        return self.flow(context.unsqueeze(-2)).log_prob(points)

    def sample(self, context: Tensor, count: int) -> Tensor:
        return self.flow(context).sample((count,)).movedim(0, 1)


class FrEIAs(Contender):
    """FrEIA's affine couplings, with a permutation before each."""

    def __init__(self, case: Case) -> None:
        from FrEIA.framework import SequenceINN
        from FrEIA.modules import AffineCouplingOneSided, PermuteRandom

        def subnet(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(inputs, case.hidden),
                nn.ReLU(),
                nn.Linear(case.hidden, case.hidden),
                nn.ReLU(),
                nn.Linear(case.hidden, outputs),
            )

        self.module = self.flow = SequenceINN(3)
        for layer in range(case.couplings):
            self.flow.append(PermuteRandom, seed=layer)
            self.flow.append(
                AffineCouplingOneSided,
                cond=0,
                cond_shape=(case.context,),
                subnet_constructor=subnet,
                split_len=case.kept,
            )

    def _run(self, points: Tensor, context: Tensor, rev: bool) -> tuple[Tensor, Tensor]:
        flat = context.unsqueeze(-2).expand(*points.shape[:-1], -1).reshape(-1, context.shape[-1])
        moved, log_det = self.flow(points.reshape(-1, 3), [flat], rev=rev)
        return moved.view(points.shape), log_det.view(points.shape[:-1])

    def log_prob(self, points: Tensor, context: Tensor) -> Tensor:
        noise, log_det = self._run(points, context, rev=False)
        return dist.Normal(0.0, 1.0).log_prob(noise).sum(-1) + log_det

    def sample(self, context: Tensor, count: int) -> Tensor:
        return self._run(torch.randn(len(context), count, 3), context, rev=True)[0]


CONTENDERS: dict[str, Callable[[Case], Contender]] = {
    "pyro": Pyros,
    "zuko": Zukos,
    "FrEIA": FrEIAs,
    "ours, plain": lambda case: Ours(case, "plain"),
    "ours, tiled": lambda case: Ours(case, "tiled"),
    "ours, fused": lambda case: Ours(case, "fused"),
}
