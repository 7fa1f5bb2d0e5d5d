"""Flat parameters: those of a module as one vector, and its exponential moving average (EMA)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["FlatParameters"]


class FlatParameters:
    """Trainable parameters as views of one vector, with their exponential moving average.

    A flow has a hundred small parameters. Clipping, stepping and averaging them one by one takes a tenth of a
    training step, and several times that while other programs use the same cores; as one vector it takes a few calls.

    After `t` updates, the average keeps the share `min(decay, t / (t + 9))` of itself, so that it owes nothing to
    the weights before the first update, and those of a short training are not outweighed by its beginning.

    Args:
        parameters: names to parameters of one data type on one device; they become views until `release`.
        decay: the share that the average keeps in the long run, in [0, 1).
        weight_decays: names of parameters to what `shrink` takes from them.

    Raises:
        ValueError: if there are no parameters, or they differ in data type.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> flat = FlatParameters(dict(layer.named_parameters()), decay=0.99)
        >>> for step, value in enumerate([1.0, 2.0]):
        ...     _ = flat.values.data.fill_(value)
        ...     flat.update_average(step)
        >>> flat.named(flat.averages)["weight"]
        tensor([[1.9000, 1.9000]])
        >>> flat.release(averaged=True)
        >>> layer.bias.data
        tensor([1.9000])
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], decay: float, weight_decays: Mapping[str, float] | None = None
    ) -> None:
        if not parameters:
            raise ValueError("there is nothing to train: no parameter requires a gradient")
        dtypes = sorted({str(parameter.dtype) for parameter in parameters.values()})
        if len(dtypes) > 1:
            raise ValueError(f"the parameters must share one data type, got {', '.join(dtypes)}")
        self.parameters = dict(parameters)
        self.decay = decay
        self.values = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()]))
        self.values.grad = torch.zeros_like(self.values)
        self.averages = self.values.detach().clone()
        self._weight_decays: Tensor | None = None
        if weight_decays:
            self._weight_decays = torch.zeros_like(self.averages)
            for name, piece in self.named(self._weight_decays).items():
                piece.fill_(weight_decays.get(name, 0.0))
        self._originals = [parameter.data for parameter in parameters.values()]
        self.show(self.values)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Cut a vector like `values` into views with the names and shapes of the parameters."""
        sizes = [parameter.numel() for parameter in self.parameters.values()]
        pieces = flat.split(sizes)
        return {
            name: piece.view(parameter.shape)
            for (name, parameter), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    @torch.no_grad()
    def gather_gradients(self) -> Tensor:
        """Collect the gradients of all parameters into that of `values`, and return it."""
        assert self.values.grad is not None
        pieces = [
            torch.zeros_like(parameter).view(-1) if parameter.grad is None else parameter.grad.reshape(-1)
            for parameter in self.parameters.values()
        ]
        return torch.cat(pieces, out=self.values.grad)

    def drop_gradients(self) -> None:
        """Clear the gradients of all parameters."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def shrink(self, rate: float) -> None:
        """Take from each weight the share that is a learning rate times its weight decay."""
        if self._weight_decays is not None:
            self.values.mul_(1.0 - rate * self._weight_decays)

    @torch.no_grad()
    def hold(self, parameters: Collection[nn.Parameter]) -> None:
        """Set parameters to their averages: an optimizer moves the whole vector, by momentum if by nothing else."""
        held = set(parameters)
        if not held:
            return
        for parameter, average in zip(self.parameters.values(), self.named(self.averages).values(), strict=True):
            if parameter in held:
                parameter.copy_(average)

    @torch.no_grad()
    def update_average(self, step: float) -> None:
        """Update the average with the weights, after `step` earlier updates."""
        self.averages.lerp_(self.values, 1.0 - min(self.decay, step / (step + 9)))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block, parameters are views of their averages; the weights are not touched."""
        try:
            self.show(self.averages)
            yield
        finally:
            self.show(self.values)

    def show(self, flat: Tensor) -> None:
        """Make the parameters views of a vector like `values`."""
        for parameter, view in zip(self.parameters.values(), self.named(flat.detach()).values(), strict=True):
            parameter.data = view

    def is_finite(self, flat: Tensor) -> bool:
        """Whether a vector like `values` is finite."""
        return bool(flat.detach().isfinite().all())

    @torch.no_grad()
    def release(self, *, averaged: bool) -> None:
        """Give the parameters their own memory again, with the weights or with their averages in it."""
        flat = self.averages if averaged else self.values
        views = self.named(flat.detach()).values()
        for parameter, original, view in zip(self.parameters.values(), self._originals, views, strict=True):
            parameter.data = original.copy_(view)
