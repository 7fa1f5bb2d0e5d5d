"""What the objectives of both roads share: options of the data, checked and described."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn

from pyro_pcflow.training.augmentation import named
from pyro_pcflow.training.objective import Objective
from pyro_pcflow.training.options import CloudSampling, check_kind, noise_scale, whole_number
from pyro_pcflow.training.thickness import automatic_noise, warn_of_a_surface

__all__ = ["DataObjective"]


class DataObjective(Objective):
    """An objective on data that `fit` was given, part of it held out; the arguments are those of its subclasses."""

    noise: float

    def __init__(
        self,
        module: nn.Module,
        *,
        batch_size: int,
        noise: float | str,
        held_out: Any,
        seed: int,
        sampling: CloudSampling | None,
    ) -> None:
        self.module = module
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self._given_noise = noise_scale(noise)
        self.seed = whole_number("seed", seed, 0)
        self.sampling = CloudSampling() if sampling is None else check_kind("sampling", sampling, CloudSampling)
        self.augmentations = self.sampling.augmentations
        # None where held-out data is given.
        self.held_out_share = float(held_out) if isinstance(held_out, Real) else None

    def settle_noise(self, clouds: Sequence[Tensor]) -> None:
        """Choose the noise that was left to us by training points, shape `(N, D)` each, or warn if they need some."""
        self.noise = automatic_noise(clouds) if self._given_noise is None else self._given_noise
        if self.noise == 0:
            warn_of_a_surface(clouds)

    def describe_options(self) -> dict[str, Any]:
        """What decides the batches of both roads, in plain values."""
        held_out = "given" if self.held_out_share is None else self.held_out_share
        return {"batch_size": self.batch_size, "noise": self.noise, "held_out": held_out}

    def describe_augment(self) -> dict[str, Any]:
        """What changes training clouds, by name; nothing where nothing does."""
        return {"augment": named(self.augmentations)} if self.augmentations else {}
