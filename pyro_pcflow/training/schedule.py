"""Learning-rate schedule: how long training lasts, and its rate on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine down to zero, over a number of steps, of seconds, or the first to end.

    A training that is extended follows the cosine of its new length; a line over `warmup_steps` leads there from the
    rate that it had come to.

    Args:
        lr: the learning rate that the cosine starts from.
        warmup_steps: steps over which the rate rises linearly; 0 for none.
        max_steps: steps of the whole training, or None.
        max_seconds: seconds of the whole training, or None.
        start_step: the step that the line begins at.
        start_rate: the rate that it begins at.

    Examples:
        >>> schedule = Schedule(lr=1.0, warmup_steps=0, max_steps=100)
        >>> [round(schedule.rate(step, seconds=0.0), 3) for step in (0, 50, 100)]
        [1.0, 0.5, 0.0]
        >>> extended = Schedule(lr=1.0, warmup_steps=10, max_steps=200, start_step=100, start_rate=0.0)
        >>> [round(extended.rate(step, seconds=0.0), 3) for step in (99 + 5, 99 + 10, 150, 200)]
        [0.234, 0.43, 0.146, 0.0]
    """

    lr: float
    warmup_steps: int
    max_steps: int | None = None
    max_seconds: float | None = None
    start_step: int = 0
    start_rate: float = 0.0

    def progress(self, step: int, seconds: float) -> float:
        """The share of the training that is over after `step` steps and `seconds`, in [0, 1]."""
        by_steps = 0.0 if self.max_steps is None else step / self.max_steps
        by_seconds = 0.0 if self.max_seconds is None else seconds / self.max_seconds
        return min(max(by_steps, by_seconds), 1.0)

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate of the step that follows `step` steps and `seconds`."""
        decayed = self.lr * 0.5 * (1.0 + math.cos(math.pi * self.progress(step, seconds)))
        share = min(1.0, (step + 1 - self.start_step) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.start_rate + share * (decayed - self.start_rate)
