"""Sets of samples and references, made comparable: numbers of clouds, numbers of points, normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.metrics.pairs import check_choice, nonfinite_clouds
from pyro_pcflow.ops.random import seeded, seeded_generator

__all__ = ["ComparedSets", "Normalization", "Normalizer", "Samples", "as_clouds", "make_comparable"]

Normalization = Literal["none", "references", "per_cloud", "per_cloud_box"]
Samples = Tensor | np.ndarray | Callable[[int, int], Tensor]


def as_clouds(clouds: Tensor | np.ndarray, name: str, ranks: tuple[int, ...] = (3,)) -> Tensor:
    """A tensor of a checked set of clouds, (S, N, D), or (draws, S, N, D) where `ranks` has 4.

    Raises:
        TypeError: not an array of float32 or float64.
        ValueError: another rank, or no points.
    """
    if (
        not isinstance(clouds, (Tensor, np.ndarray))
        or np.dtype(str(clouds.dtype).removeprefix("torch.")).char not in "fd"
    ):
        found = str(clouds.dtype) if isinstance(clouds, (Tensor, np.ndarray)) else type(clouds).__name__
        raise TypeError(f"{name}: expected a tensor or an array of float32 or float64, got {found}")
    tensor = torch.as_tensor(clouds).detach()
    if tensor.dim() not in ranks:
        shapes = " or ".join({3: "(S, N, D)", 4: "(draws, S, N, D)"}[rank] for rank in ranks)
        raise ValueError(f"{name}: expected shape {shapes}, got {tuple(tensor.shape)}")
    if 0 in tensor.shape:
        raise ValueError(f"{name}: there is no point in it, its shape is {tuple(tensor.shape)}")
    return tensor


def choose_clouds(clouds: Tensor, count: int, name: str, seed: int, purpose: str) -> Tensor:
    """Random clouds of a set, without repeats; all in their order if there are as many.

    Args:
        clouds: (S, N, D).
        count: how many.
        name: of the argument, for an error.
        seed: of the choice.
        purpose: what the choice is for; choices of one seed and different purposes are independent.

    Raises:
        ValueError: there are fewer.
    """
    if len(clouds) < count:
        raise ValueError(
            f"{name}: expected at least {count} clouds, got {len(clouds)}; give more, or a lower num_clouds"
        )
    if len(clouds) == count:
        return clouds
    chosen = torch.randperm(len(clouds), generator=seeded_generator(seed, f"clouds {purpose}"))[:count]
    return clouds[chosen.to(clouds.device)]


def choose_points(clouds: Tensor, count: int, name: str, seed: int, purpose: str) -> Tensor:
    """Random points of each cloud, without repeats, (S, count, D); all if there are as many. Arguments as above."""
    if clouds.shape[1] < count:
        raise ValueError(
            f"{name}: expected at least {count} points in each cloud, got {clouds.shape[1]}; points are not repeated, "
            "so give more, or a lower num_points"
        )
    if clouds.shape[1] == count:
        return clouds
    order = torch.rand(clouds.shape[:2], generator=seeded_generator(seed, f"points {purpose}")).argsort(1)[:, :count]
    return clouds.gather(1, order.unsqueeze(-1).expand(-1, -1, clouds.shape[-1]).to(clouds.device))


def draw_samples(
    samples: Samples, draws: int | None, num_clouds: int, num_points: int | None, expected_points: int, seed: int
) -> list[Tensor]:
    """Sets of samples of one size, from samples or a function that draws them.

    Args:
        samples: (S, N, D), split at random into disjoint sets, one per draw; (draws, S, N, D); or a function of the
            number of clouds and of points, called once per draw with the draw's own seed.
        draws: how many sets; by default one, or as many as `samples` has.
        num_clouds: samples in each set.
        num_points: points to choose of each; None if they must have `expected_points`.
        expected_points: points of the references.
        seed: of the first draw; the others have the seeds after it.

    Returns:
        For each draw, (num_clouds, N, D).

    Raises:
        TypeError: not clouds.
        ValueError: too few samples, too few points, another number of draws, or another shape than requested.

    Examples:
        >>> [len(some) for some in draw_samples(torch.randn(9, 50, 3), 2, 4, 20, 50, seed=0)]
        [4, 4]
    """
    if draws is not None and draws < 1:
        raise ValueError(f"draws: expected at least 1, got {draws}")
    count = expected_points if num_points is None else num_points
    sets: list[Tensor] = []
    if isinstance(samples, (Tensor, np.ndarray)):
        clouds = as_clouds(samples, "samples", ranks=(3, 4))
        if clouds.dim() == 4:
            if draws not in (None, len(clouds)):
                raise ValueError(f"draws: samples of shape {tuple(clouds.shape)} are {len(clouds)} draws, got {draws}")
            sets = [choose_clouds(some, num_clouds, "samples", seed, f"draw {k}") for k, some in enumerate(clouds)]
        else:
            whole = choose_clouds(clouds, num_clouds * (draws or 1), "samples", seed, "draws")
            sets = list(whole.split(num_clouds))
        if num_points is None and clouds.shape[-2] != expected_points:
            raise ValueError(
                f"samples and references have {clouds.shape[-2]} and {expected_points} points per cloud, and distances "
                f"depend on that number: give num_points={min(clouds.shape[-2], expected_points)} to compare that many"
            )
    elif callable(samples):
        for k in range(draws or 1):
            with seeded(seed + k), torch.no_grad():
                sets.append(as_clouds(samples(num_clouds, count), "samples"))
            if sets[-1].shape[:2] != (num_clouds, count):
                found = tuple(sets[-1].shape)
                raise ValueError(
                    f"samples: expected the function to return {num_clouds} clouds of {count} points, got {found}"
                )
    else:
        raise TypeError(f"samples: expected a tensor, an array or a function, got {type(samples).__name__}")
    return [choose_points(some, count, "samples", seed, f"draw {k}") for k, some in enumerate(sets)]


@dataclass(frozen=True, eq=False)
class Normalizer:
    """The normalisation of coordinates before clouds are compared.

    Args:
        normalization: `"none"`; `"references"`, one mean per coordinate and one standard deviation of all references;
            `"per_cloud"`, those of each cloud; `"per_cloud_box"`, centre and half of the longest side of each cloud's
            bounding box.
        references: (R, N, D), as they are compared.

    Raises:
        ValueError: an unknown name, or references that all lie in one point.

    Examples:
        >>> normalize = Normalizer("per_cloud_box", torch.randn(5, 20, 3))
        >>> normalize(torch.tensor([[[0.0, 0.0], [4.0, 2.0]]])).tolist()
        [[[-1.0, -0.5], [1.0, 0.5]]]
    """

    normalization: str
    references: Tensor

    def __post_init__(self) -> None:
        check_choice(self.normalization, get_args(Normalization), "normalization")
        failed = nonfinite_clouds(self(self.references)).sum()
        if failed:
            raise ValueError(f"references: all points are the same in {int(failed)} clouds, which have no scale")

    def __call__(self, clouds: Tensor) -> Tensor:
        """Normalise clouds; one whose points are all the same becomes NaN where it needs a scale of its own.

        Args:
            clouds: (S, N, D).
        """
        if self.normalization == "none":
            return clouds
        if self.normalization == "per_cloud_box":
            low, high = clouds.amin(1, keepdim=True), clouds.amax(1, keepdim=True)
            return (clouds - (low + high) / 2) / ((high - low).amax(-1, keepdim=True) / 2)
        of = self.references.flatten(0, 1).unsqueeze(0) if self.normalization == "references" else clouds
        center = of.mean(1, keepdim=True)
        return (clouds - center) / (of - center).square().mean((1, 2), keepdim=True).sqrt()


@dataclass(frozen=True, eq=False)
class ComparedSets:
    """Sets of clouds that are compared: as many clouds of as many points, in the same units.

    Args:
        references: (R, N, D), finite.
        samples: for each draw, (R, N, D).
        train: sets of training clouds, (R, N, D), finite.
    """

    references: Tensor
    samples: list[Tensor]
    train: list[Tensor]


def make_comparable(
    samples: Samples,
    references: Tensor,
    train: Tensor | None,
    *,
    draws: int | None,
    num_clouds: int | None,
    num_points: int | None,
    normalization: str,
    seed: int,
) -> ComparedSets:
    """Choose clouds and points, and normalise them; arguments and errors are those of `evaluate`."""
    count = len(references) if num_clouds is None else num_clouds
    if count < 2:
        raise ValueError(
            f"{'references' if num_clouds is None else 'num_clouds'}: expected at least two clouds, since a neighbour "
            f"must be another one, got {count}"
        )
    _require_finite(references, "references")
    if train is not None:
        _require_finite(train, "train")
    points = references.shape[1] if num_points is None else num_points
    if points < 1:
        raise ValueError(f"num_points: expected at least 1, got {num_points}")
    compared = choose_clouds(references, count, "references", seed, "references")
    sets = draw_samples(samples, draws, count, num_points, references.shape[1], seed)
    for clouds, kind in [(sets[0], "samples"), (train, "train")]:
        if clouds is not None and clouds.shape[-1] != references.shape[-1]:
            raise ValueError(
                f"{kind} and references: expected points of one dimension, got shapes {tuple(clouds.shape)} and "
                f"{tuple(references.shape)}"
            )
    trained = [] if train is None else _training_sets(train, len(sets), count, points, seed)
    dtype = torch.promote_types(sets[0].dtype, compared.dtype)
    compared = choose_points(compared, points, "references", seed, "references").to(dtype)
    normalize = Normalizer(normalization, compared)
    trained = [normalize(clouds.to(compared)) for clouds in trained]
    for clouds in trained:
        _require_finite(clouds, "train, after normalisation")
    return ComparedSets(normalize(compared), [normalize(clouds.to(compared)) for clouds in sets], trained)


def _require_finite(clouds: Tensor, name: str) -> None:
    failed = nonfinite_clouds(clouds).nonzero().flatten().tolist()
    if failed:
        raise ValueError(
            f"{name}: {len(failed)} of {len(clouds)} clouds have coordinates that are not finite, the first is number "
            f"{failed[0]}; only samples may fail"
        )


def _training_sets(clouds: Tensor, draws: int, count: int, points: int, seed: int) -> list[Tensor]:
    if clouds.shape[:2] == (count, points):
        draws = 1
    some = [choose_clouds(clouds, count, "train", seed, f"training draw {k}") for k in range(draws)]
    return [choose_points(part, points, "train", seed, f"training draw {k}") for k, part in enumerate(some)]
