"""Callbacks of a training, and the progress that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from pyro_pcflow.training.objective import Objective

__all__ = ["Callback", "Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a training stands when a callback is called.

    Attributes:
        module: what is trained. During `on_evaluation` it holds the averaged weights and is in eval mode, at the end it
            holds the averaged weights; otherwise it holds those of the last step.
        objective: has the data.
        step: steps taken so far, those before a resumption included.
        seconds: seconds of training so far.
        scores: of the last evaluation, by name; empty before the first.
        out: the run folder, or None.
        seed: of the training.
        settings: what `config.toml` says of the run, in nested plain values; for a logger's hyperparameters.
    """

    module: nn.Module
    objective: Objective
    step: int
    seconds: float
    scores: Mapping[str, float]
    out: Path | None
    seed: int
    settings: Mapping[str, Any]


class Callback:
    """The base class of callbacks, such as loggers: `fit` calls its methods, each of which does nothing by default.

    A callback draws random numbers of its own, which change nothing of the training. An error that it raises ends the
    training like any other: the module holds averaged weights, and the last checkpoint stays. Of several processes, the
    first alone calls it. A training that is resumed after its process was killed repeats the lines that follow its last
    checkpoint.

    Examples:
        >>> import torch
        >>> import pyro_pcflow as pcf
        >>> class Losses(Callback):
        ...     def __init__(self):
        ...         self.losses = []
        ...     def on_log(self, progress, line):
        ...         self.losses.append(line["loss"])
        >>> flow = pcf.PointCloudFlow(2, num_couplings=2, hidden_dims=[8])
        >>> losses = Losses()
        >>> _ = pcf.fit(flow, torch.randn(500, 2), max_steps=100, callbacks=[losses], device="cpu")
        >>> len(losses.losses)
        2
    """

    def files(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the files that it writes into the run folder, where files of the user are never replaced.

        Args:
            module: what is trained.
        """
        return ()

    def on_start(self, progress: Progress) -> None:
        """Called before the first step, also of a training that is resumed.

        Args:
            progress: where the training stands.
        """

    def on_log(self, progress: Progress, line: Mapping[str, Any]) -> None:
        """Called for each line of the metrics.

        Args:
            progress: where the training stands.
            line: `step`, `seconds`, `loss`, `lr`, `grad_norm`, `points_per_second`, and the scores after an evaluation;
                None in place of what is not finite.
        """

    def on_evaluation(self, progress: Progress, scores: Mapping[str, float]) -> None:
        """Called after each evaluation of the held-out data, without gradients.

        Args:
            progress: where the training stands.
            scores: by name, `nats_per_point` among them.
        """

    def on_end(self, progress: Progress) -> None:
        """Called once training has come to its end; not after an error or an interrupt.

        Args:
            progress: where the training stands.
        """
