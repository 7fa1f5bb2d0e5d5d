"""Batches of clouds, each as two independent samples of its surface."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_pcflow.ops.random import seeded, seeded_generator
from pyro_pcflow.training.augmentation import Augmentation, augmented
from pyro_pcflow.training.rows import Epochs
from pyro_pcflow.training.sources import RaggedClouds, Source

__all__ = ["CloudBatch", "CloudBatches", "draw_batch", "evaluation_batches", "split_sizes", "whole_batch", "with_noise"]

# With fewer points the encoder and the likelihood share what there is.
FEWEST_TO_SPLIT = 64


@dataclass(frozen=True)
class CloudBatch:
    """What a step trains on: the arguments of a model and of its guide.

    Attributes:
        index: numbers of the clouds among those of the training, shape `(B,)`.
        clouds: points whose density is scored, shape `(B, M, D)`.
        mask: True at points, shape `(B, M)`, or None.
        encoder_points: points that an encoder reads, shape `(B, M', D)`.
        encoder_mask: True at points, shape `(B, M')`, or None.
        num_points: number of points that each whole cloud counts as, shape `(B,)`.
        labels: numbers of classes, shape `(B,)`, or None.
        noise_level: share of the noise that each cloud has, shape `(B,)`.
        kl_weight: weight of the latents' terms.
        parts: number of processes that share the batch.
        points_of_all_parts: number of points of the clouds of all of them, or None where there is one.
    """

    index: Tensor
    clouds: Tensor
    mask: Tensor | None
    encoder_points: Tensor
    encoder_mask: Tensor | None
    num_points: Tensor
    labels: Tensor | None
    noise_level: Tensor
    kl_weight: float = 1.0
    parts: int = 1
    points_of_all_parts: Tensor | None = None

    @property
    def whole_points(self) -> Tensor:
        """Number of points of the whole clouds of the whole batch."""
        return self.num_points.sum().clamp(min=1) if self.points_of_all_parts is None else self.points_of_all_parts

    def part(self, rows: slice, parts: int) -> CloudBatch:
        """Some of the clouds, one of several parts."""
        mine: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor) and value.dim() > 0
        }
        return replace(self, **mine, parts=parts, points_of_all_parts=self.whole_points)

    def as_read(self) -> CloudBatch:
        """The same batch as if there were no points but those that the encoder reads, of which some are scored."""
        count, mask = self.clouds.shape[1], self.encoder_mask
        return replace(
            self,
            clouds=self.encoder_points[:, :count],
            mask=None if mask is None else mask[:, :count],
            num_points=_sizes(mask, self.encoder_points),
        )

    def options(self, names: Collection[str]) -> dict[str, Any]:
        """Those of `CLOUD_OPTIONS` that a model names, and that there are."""
        options = {
            "index": self.index,
            "labels": self.labels,
            "noise_level": self.noise_level,
            "num_points": self.num_points,
            "kl_weight": self.kl_weight,
            "encoder_points": self.encoder_points,
            "encoder_mask": self.encoder_mask,
        }
        return {name: value for name, value in options.items() if name in names and value is not None}


def split_sizes(sizes: Tensor, target_points: int, encoder_points: int) -> tuple[Tensor, Tensor, Tensor]:
    """How many points the encoder reads of each cloud, how many are targets, and the first of these.

    Points that the one has are not the other's, unless a cloud has too few; the encoder has at most half of them.

    Args:
        sizes: numbers of points, shape `(B,)`.
        target_points: most points that are scored.
        encoder_points: most points that the encoder reads.

    Returns:
        Three integer tensors of shape `(B,)`.

    Examples:
        >>> split_sizes(torch.tensor([2048, 300, 10]), 128, 512)
        (tensor([512, 150,  10]), tensor([128, 128,  10]), tensor([512, 150,   0]))
    """
    split = sizes >= FEWEST_TO_SPLIT
    encoder = torch.where(split, sizes // 2, sizes).clamp(max=encoder_points)
    first = torch.where(split, encoder, 0)
    return encoder, (sizes - first).clamp(max=target_points), first


class CloudBatches:
    """Batches of clouds without replacement, in an order that follows from the seed and the step alone.

    Of each cloud, two samples of its points are drawn without replacement: one that an encoder reads, and one whose
    density is scored. An epoch drops the clouds that fill no batch; the next one drops others.

    Args:
        clouds: the training clouds.
        batch_size: clouds in a batch; all of them where there are fewer.
        target_points: points that are scored; fewer where a cloud has not enough.
        encoder_points: points that an encoder reads, at most half of a cloud; or the range of their number, see
            `CloudSampling`.
        seed: decides the order and the points.
        noise: standard deviation of Gaussian noise that is added to every point, fresh each time, from torch's
            generator of the points' device.
        varied_noise: whether each cloud has a uniform share of the noise instead of all of it.
        kl_warmup_steps: steps over which the weight of the latents' terms rises to 1.
        split: whether encoder and targets have points of their own; otherwise both have every point of a cloud.
        most_points: what a whole cloud counts as, at most, see `CloudSampling`.
        augment: changes the clouds of a batch, in turn, see `CloudSampling`.

    Examples:
        >>> from pyro_pcflow.training.sources import Clouds
        >>> clouds = Clouds(torch.randn(10, 100, 3))
        >>> batch = CloudBatches(clouds, batch_size=4, target_points=32, encoder_points=40, seed=0).batch(0)
        >>> batch.clouds.shape, batch.encoder_points.shape
        (torch.Size([4, 32, 3]), torch.Size([4, 40, 3]))
    """

    def __init__(
        self,
        clouds: Source,
        batch_size: int,
        target_points: int,
        encoder_points: int | tuple[int, int],
        seed: int,
        *,
        noise: float = 0.0,
        varied_noise: bool = False,
        kl_warmup_steps: int = 0,
        split: bool = True,
        most_points: int | None = None,
        augment: Sequence[Augmentation] = (),
    ) -> None:
        self.clouds = clouds
        self.target_points = target_points
        self.encoder_points = encoder_points
        self.noise = noise
        self.varied_noise = varied_noise
        self.kl_warmup_steps = kl_warmup_steps
        self.split = split
        self.most_points = most_points
        self.augment = augment
        self._seed = seed
        self._epochs = Epochs(len(clouds), batch_size, seed)
        self.batch_size = self._epochs.batch_size

    def batch(self, step: int) -> CloudBatch:
        """The batch of the step that follows `step` earlier ones."""
        chosen = self._epochs.rows(step)
        if self.split:
            generator = seeded_generator(self._seed, f"points {step}")
            batch = draw_batch(self.clouds, chosen, self.target_points, self._encoder_points(step), generator)
        else:
            batch = whole_batch(self.clouds, chosen)
        if self.most_points is not None:
            batch = replace(batch, num_points=batch.num_points.clamp(max=self.most_points))
        if self.augment:
            batch = self._augmented(batch, step)
        level = batch.noise_level
        if self.varied_noise:
            level = torch.rand_like(level)
        weight = min(1.0, (step + 1) / self.kl_warmup_steps) if self.kl_warmup_steps else 1.0
        return with_noise(replace(batch, noise_level=level, kl_weight=weight), self.noise)

    def _encoder_points(self, step: int) -> int:
        if isinstance(self.encoder_points, int):
            return self.encoder_points
        least, most = self.encoder_points
        share = float(torch.rand((), generator=seeded_generator(self._seed, f"encoder points {step}")))
        return round(least * (most / least) ** share)

    def _augmented(self, batch: CloudBatch, step: int) -> CloudBatch:
        """The same batch, both samples of a cloud changed alike."""
        targets, encoder = (batch.clouds, batch.mask), (batch.encoder_points, batch.encoder_mask)
        changed = augmented(self.augment, self._seed, step, [targets, encoder] if self.split else [targets])
        return replace(batch, clouds=changed[0], encoder_points=changed[-1])


def draw_batch(
    clouds: Source, chosen: Tensor, target_points: int, encoder_points: int, generator: torch.Generator
) -> CloudBatch:
    """Draw two samples of the points of some clouds.

    Args:
        clouds: where they are drawn from.
        chosen: numbers of clouds, shape `(B,)`, on the CPU.
        target_points: points that are scored.
        encoder_points: points that an encoder reads.
        generator: decides the points, a generator of the CPU.
    """
    device = clouds.device
    chosen = chosen.to(device)
    sizes = clouds.sizes_of(chosen)
    encoder, target, first = split_sizes(sizes, target_points, encoder_points)
    wanted = int(torch.maximum(encoder, first + target).max())
    if isinstance(clouds, RaggedClouds):
        order = _order_of_each(sizes, wanted, generator)
    else:
        keys = torch.rand(len(chosen), clouds.max_points, generator=generator).to(device)
        mask = clouds.mask_of(chosen)
        # Padding comes last.
        order = (keys if mask is None else torch.where(mask, keys, -1.0)).topk(wanted, -1).indices
    sample = clouds.take(chosen, order)
    encoder_part, encoder_mask = _part(sample, torch.zeros_like(first), encoder)
    target_part, target_mask = _part(sample, first, target)
    return CloudBatch(
        index=chosen,
        clouds=target_part,
        mask=target_mask,
        encoder_points=encoder_part,
        encoder_mask=encoder_mask,
        num_points=sizes,
        labels=None if clouds.labels is None else clouds.labels[chosen],
        noise_level=torch.ones(len(chosen), dtype=sample.dtype, device=device),
    )


def _order_of_each(sizes: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """Numbers of points of each cloud in a random order, padded by 0, shape `(B, wanted)`: one large cloud is alone."""
    order = sizes.new_zeros(len(sizes), wanted)
    for row, size in zip(order, sizes.tolist(), strict=True):
        drawn = torch.rand(size, generator=generator).topk(min(size, wanted)).indices
        row[: len(drawn)] = drawn.to(order.device)
    return order


def whole_batch(clouds: Source, chosen: Tensor) -> CloudBatch:
    """Some clouds with all of their points, for the encoder and as targets; arguments as for `draw_batch`."""
    chosen = chosen.to(clouds.device)
    points, mask = clouds.take(chosen), clouds.mask_of(chosen)
    return CloudBatch(
        index=chosen,
        clouds=points,
        mask=mask,
        encoder_points=points,
        encoder_mask=mask,
        num_points=clouds.sizes_of(chosen),
        labels=None if clouds.labels is None else clouds.labels[chosen],
        noise_level=torch.ones(len(chosen), dtype=points.dtype, device=clouds.device),
    )


def with_noise(batch: CloudBatch, noise: float) -> CloudBatch:
    """The same batch with Gaussian noise on every point, of `noise` times the cloud's level as standard deviation."""
    if noise == 0:
        return batch
    scale = noise * batch.noise_level[:, None, None]
    return replace(
        batch,
        clouds=batch.clouds + scale * torch.randn_like(batch.clouds),
        encoder_points=batch.encoder_points + scale * torch.randn_like(batch.encoder_points),
    )


def _sizes(mask: Tensor | None, clouds: Tensor) -> Tensor:
    """Number of points of each cloud of `(B, N, D)`."""
    return torch.full(clouds.shape[:1], clouds.shape[1], device=clouds.device) if mask is None else mask.sum(-1)


def _part(sample: Tensor, first: Tensor, count: Tensor) -> tuple[Tensor, Tensor | None]:
    """From every row of `(B, M, D)` a run of points, padded to the longest run."""
    longest = int(count.max()) if len(count) else 0
    if bool((count == longest).all()) and bool((first == first[:1]).all()):
        start = int(first[0]) if len(first) else 0
        return sample[:, start : start + longest], None
    places = torch.arange(longest, device=sample.device)
    mask = places < count.unsqueeze(-1)
    index = torch.where(mask, first.unsqueeze(-1) + places, 0).unsqueeze(-1)
    part = sample.gather(1, index.expand(-1, -1, sample.shape[-1]))
    return torch.where(mask.unsqueeze(-1), part, 0), mask


def evaluation_batches(
    clouds: Source, seed: int, noise: float, *, split: bool = True, at_once: int = 64
) -> list[CloudBatch]:
    """Every cloud, one half of it for an encoder and one to be scored, the same each time.

    Args:
        clouds: the held-out clouds.
        seed: decides the halves and the noise.
        noise: standard deviation of the Gaussian noise on every point.
        split: see `CloudBatches`.
        at_once: clouds in a batch.
    """
    generator = seeded_generator(seed, "held-out points")
    chosen = _of_like_size(clouds, at_once) if isinstance(clouds, RaggedClouds) else _in_turn(clouds, at_once)
    with seeded(seed, clouds.device):
        if not split:
            return [with_noise(whole_batch(clouds, some), noise) for some in chosen]
        most = clouds.max_points
        batches = [draw_batch(clouds, some, most, most, generator) for some in chosen]
        return [with_noise(batch, noise) for batch in batches]


def _in_turn(clouds: Source, at_once: int) -> Sequence[Tensor]:
    return torch.arange(len(clouds)).split(at_once)


def _of_like_size(clouds: RaggedClouds, at_once: int) -> Sequence[Tensor]:
    """Numbers of clouds in batches in which none is more than twice as large as another, so that padding is little."""
    groups: list[list[int]] = [[]]
    sizes = clouds.sizes.tolist()
    for number in sorted(range(len(sizes)), key=sizes.__getitem__):
        # Clouds without a point are no batch.
        smallest = sizes[groups[-1][0]] if groups[-1] else 0
        if len(groups[-1]) == at_once or sizes[number] > 2 * smallest > 0:
            groups.append([])
        groups[-1].append(number)
    return [torch.tensor(group) for group in groups]
