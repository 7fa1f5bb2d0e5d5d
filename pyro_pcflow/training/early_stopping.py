"""Early stopping: the best averaged weights by the held-out score, and how long ago they were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

__all__ = ["BestEvaluation"]


@dataclass(frozen=True)
class BestEvaluation:
    """The best evaluation of a training so far, and the weights that were evaluated.

    Attributes:
        averages: all averaged weights as one vector.
        scores: of the held-out data, by name.
        waited: how many evaluations came since, none of them better.

    Examples:
        >>> import torch
        >>> best = None
        >>> for step, score in enumerate([1.0, 3.0, 2.0]):
        ...     best = BestEvaluation.after(best, torch.tensor([step]), {"score": score}, "score")
        >>> best
        BestEvaluation(averages=tensor([1]), scores={'score': 3.0}, waited=1)
    """

    averages: Tensor
    scores: Mapping[str, float]
    waited: int = 0

    @staticmethod
    def after(best: BestEvaluation | None, averages: Tensor, scores: Mapping[str, float], score: str) -> BestEvaluation:
        """The best after one more evaluation, by the score of a name.

        Raises:
            ValueError: if the scores lack the one that decides.
        """
        if score not in scores:
            raise ValueError(
                f"patience compares the score {score!r}, which the objective's evaluate does not return: have it "
                "return that, or give Optimization(patience=None)"
            )
        if best is not None and not _comparable(scores[score]) > _comparable(best.scores[score]):
            return replace(best, waited=best.waited + 1)
        return BestEvaluation(averages.clone(), dict(scores))


def _comparable(score: float) -> float:
    return -math.inf if math.isnan(score) else score
