"""Learning-rate schedule: how long training lasts, and its rate on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Schedule"]

# The rate of a second phase as a share of the first's: what is left to learn then is small.
SECOND_RATE = 0.25


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine down to zero, over a number of steps, of seconds, or the first to end.

    With a second phase, the cosine comes down to zero where that begins, and all begins anew at a quarter of the rate.

    A training that is extended follows the cosine of its new length; a line over `warmup_steps` leads there from the
    rate that it had come to.

    Args:
        lr: the learning rate that the cosine starts from.
        warmup_steps: steps over which the rate rises linearly; 0 for none.
        max_steps: steps of the whole training, or None.
        max_seconds: seconds of the whole training, or None.
        start_step: the step that the line begins at.
        start_rate: the rate that it begins at.
        second_phase: the share of the training after which a second phase begins; 1 for none.
        hastened_at: the share after which it has begun instead, for it did not have to wait; it takes as long as it
            would have, and so training ends before its limits. None if it begins where it was planned.

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
    second_phase: float = 1.0
    hastened_at: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """The share of the training that is over after `step` steps and `seconds`, in [0, 1]."""
        share = self._share_of_limits(step, seconds)
        if self.hastened_at is not None and share >= self.hastened_at:
            share = self.second_phase + (share - self.hastened_at)
        return min(share, 1.0)

    def hastened(self, step: int, seconds: float) -> Schedule:
        """The schedule with a second phase that begins here."""
        return replace(self, hastened_at=self._share_of_limits(step, seconds))

    def is_in_first_of_two(self, step: int, seconds: float) -> bool:
        """Whether a second phase is to come."""
        return self.progress(step, seconds) < self.second_phase < 1.0

    def steps_of_phase(self, step: int, seconds: float) -> float:
        """How many of `step` steps belong to the present phase, if all took equally long."""
        share = self._share_of_limits(step, seconds)
        begun = self.second_phase if self.hastened_at is None else self.hastened_at
        if share < begun or self.second_phase in (0.0, 1.0):
            return step
        return step * (1.0 - begun / share)

    def _share_of_limits(self, step: int, seconds: float) -> float:
        by_steps = 0.0 if self.max_steps is None else step / self.max_steps
        by_seconds = 0.0 if self.max_seconds is None else seconds / self.max_seconds
        return max(by_steps, by_seconds)

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate of the step that follows `step` steps and `seconds`."""
        progress = self.progress(step, seconds)
        first = progress < self.second_phase or self.second_phase == 1.0
        of_phase = progress / self.second_phase if first else (progress - self.second_phase) / (1.0 - self.second_phase)
        highest = self.lr if first else SECOND_RATE * self.lr
        decayed = highest * 0.5 * (1.0 + math.cos(math.pi * of_phase))
        steps = step - self.start_step if first else self.steps_of_phase(step, seconds)
        share = min(1.0, (steps + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        before = self.start_rate if first else 0.0
        return before + share * (decayed - before)
