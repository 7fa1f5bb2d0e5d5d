"""The protocol of an evaluation: everything that its numbers depend on, beside the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from pyro_pcflow._version import __version__

__all__ = ["Protocol", "library_versions"]


@dataclass(frozen=True)
class Protocol:
    """How samples were compared with references: reports whose protocols differ are not comparable.

    Args:
        data: name of the data set.
        sha256: of the references as they were given, see `pyro_pcflow.ops.hashing.array_sha256`.
        split: of the data set, such as `"test"`.
        num_clouds: how many samples are compared with as many references.
        num_points: points of each cloud.
        point_dim: coordinates of each point.
        normalization: what was done to coordinates before they were compared, see `evaluate`.
        units: the unit of coordinates before that.
        distances: for each suffix of a key the distance and all its options; of a function of the user, its qualified
            name and a hash of its code, too.
        grid: resolution and bounds of the grid of the occupancies.
        permutations: of the permutation intervals.
        seeds: one for each draw.
        versions: of the libraries that computed it.

    Examples:
        >>> one = Protocol("body", "ab12", "test", 60, 512, 3, "none", "metres", {}, {}, 1000, (0,), {"torch": "2.4"})
        >>> one.differences(Protocol(**{**one.to_dict(), "num_points": 2048}))
        {'num_points': (512, 2048)}
    """

    data: str
    sha256: str
    split: str
    num_clouds: int
    num_points: int
    point_dim: int
    normalization: str
    units: str
    distances: dict[str, dict[str, Any]]
    grid: dict[str, Any]
    permutations: int
    seeds: tuple[int, ...]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """The fields in which another protocol differs, with both values.

        Args:
            other: another protocol.
        """
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"seeds": list(self.seeds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """Invert `to_dict`.

        Raises:
            ValueError: fields that are missing or unknown.
        """
        names = {field.name for field in fields(cls)}
        if names != set(values):
            raise ValueError(f"protocol: missing {sorted(names - set(values))}, unknown {sorted(set(values) - names)}")
        return cls(**values)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that the numbers come from."""
    return {
        "pyro_pcflow": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
