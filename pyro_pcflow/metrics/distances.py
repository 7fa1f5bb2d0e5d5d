"""Distances between clouds by name or as a function, with what a matrix of them has to know."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyro_pcflow.metrics.identity import code_identity, qualified_name
from pyro_pcflow.metrics.matching import approximate_emd, emd
from pyro_pcflow.metrics.nearest_neighbours import chamfer, hausdorff
from pyro_pcflow.metrics.pairs import check_choice, pair_clouds
from pyro_pcflow.metrics.transport import sinkhorn

__all__ = ["DISTANCES", "SUFFIXES", "Distance", "DistanceLike", "as_distance"]

_MASKS = ("x_mask", "y_mask")
# A name is part of the keys of a report and of the names of folders.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Of the distances between the first two clouds: float32 loses about 1e-7 per operation, and a root half of the digits.
_SYMMETRY = 1e-3


@dataclass(frozen=True)
class Distance:
    """A distance between clouds for `pairwise` and `evaluate`, made of a function.

    The function is called as `function(x, y, x_mask=..., y_mask=..., **options)`, with clouds `x` (B, N, D) and `y`
    (B, M, D) of one dtype and device, and boolean masks (B, N) and (B, M), true where a point is there. It returns the
    distance of each of the B pairs, shape (B,). Coordinates that a mask leaves out, or that are not finite, are zeros;
    a pair of clouds of which one is not finite has the distance NaN, whatever the function returns for it. A function
    without parameters `x_mask` and `y_mask` is called without them, and then no mask may leave a point out.

    A plain function is enough where the defaults below are right: `evaluate(..., distances=[my_function])`.

    Args:
        function: what computes it.
        name: in the keys of reports, such as `"1-nna-NAME"`: letters, digits, `_`, `.` and `-`; by default the name of
            the function. A lambda or a `functools.partial` has none and needs one.
        symmetric: whether it is symmetric, and zero between a cloud and itself. Of the distances within one set, only
            half are computed then; this is checked with the first two clouds.
        equal_sizes: whether it needs as many points in `x` as in `y`.
        matrices: memory of one pair, in matrices of N x M numbers of the dtype of the clouds; `max_memory_mb` of
            `pairwise` is divided by it to find how many pairs B are computed at a time.

    Raises:
        TypeError: not a function.
        ValueError: a name that is missing, has other characters, or is one of this library's distances or keys.

    Examples:
        >>> def between_means(x, y):
        ...     return torch.linalg.vector_norm(x.mean(-2) - y.mean(-2), dim=-1)
        >>> Distance(between_means, symmetric=True).name
        'between_means'
    """

    function: Callable[..., Tensor]
    name: str = ""
    symmetric: bool = False
    equal_sizes: bool = False
    matrices: int = 6

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function: expected a function of two batches of clouds, got {self.function!r}")
        name = self.name or qualified_name(self.function).rpartition(".")[2]
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"name: expected a name of letters, digits, '_', '.' and '-' for the distance, got {name!r}; a lambda "
                "or a partial needs one: Distance(function, name='mine')"
            )
        if name in _RESERVED and not any(self.function is function for function in _OURS):
            raise ValueError(f"name: {name!r} is a distance of pcf.metrics, give the function another name")
        if self.matrices < 1:
            raise ValueError(f"matrices: expected a whole number of at least 1, got {self.matrices!r}")
        object.__setattr__(self, "name", name)

    @property
    def user_defined(self) -> bool:
        """Whether the function is not one of this library."""
        return not any(self.function is function and self.name == function.__name__ for function in _OURS)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the function that were given, and the others at their defaults.

        Raises:
            TypeError: values other than numbers, words, lists and mappings of them, which a report can hold.
            ValueError: an option that the function does not have, or one that it needs and that is missing.
        """
        parameters, any_option = self._parameters()
        known = {name: parameter.default for name, parameter in parameters.items() if name not in _MASKS}
        if (unknown := sorted(set(given) - set(known))) and not any_option:
            raise ValueError(f"options: {self.name!r} has no option {unknown[0]!r}, its options are {sorted(known)}")
        options = known | dict(given)
        if missing := [key for key, value in options.items() if value is inspect.Parameter.empty]:
            raise ValueError(f"options: {self.name!r} needs a value for {missing[0]!r}")
        for key, value in list(options.items()):
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                if key in given:
                    raise TypeError(
                        f"options: expected a number, a word, or a list or mapping of them for {key!r}, got "
                        f"{type(value).__name__}; let the function hold it instead"
                    ) from error
                # A default that no file can hold counts as part of the function.
                del options[key]
        return options

    def describe(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a protocol says of the distance, in plain values.

        Args:
            options: all of them.
        """
        if not self.user_defined:
            return {"distance": self.name, **options}
        return {
            "distance": qualified_name(self.function),
            "defined_by": "the user",
            "code": code_identity(self.function) or "unknown",
            # As a report that was read from a file has them.
            "options": json.loads(json.dumps(dict(options))),
        }

    def identity(self, options: Mapping[str, Any]) -> list[Any]:
        """What tells kept rows of this distance from others, in plain values.

        Raises:
            ValueError: the function holds something that has no plain description.
        """
        if not self.user_defined:
            return [self.name, dict(sorted(options.items()))]
        code = code_identity(self.function)
        if code is None:
            raise ValueError(
                f"path: rows of {self.name!r} cannot be kept, since the function holds an object whose content is not "
                "known; let it hold numbers, words, tensors, arrays, functions and modules only, or give no path"
            )
        return [self.name, dict(sorted(options.items())), qualified_name(self.function), code]

    def bind(self, options: Mapping[str, Any]) -> Callable[..., Tensor]:
        """The function of clouds and masks alone, which checks what a user's function returns.

        Args:
            options: all of them.
        """
        if not self.user_defined:
            return lambda x, y, **masks: self.function(x, y, **masks, **options)
        parameters, any_option = self._parameters()
        takes_masks = any_option or set(_MASKS) <= set(parameters)

        def checked(x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
            pairs = pair_clouds(x, y, x_mask, y_mask)
            if not takes_masks and not (pairs.x_mask.all() and pairs.y_mask.all()):
                raise ValueError(
                    f"{self.name}: masks leave points out, and the function has no parameters x_mask and y_mask"
                )
            masks = {"x_mask": pairs.x_mask, "y_mask": pairs.y_mask} if takes_masks else {}
            values = self.function(pairs.x, pairs.y, **masks, **options)
            if not isinstance(values, Tensor) or values.shape != pairs.invalid.shape or values.is_complex():
                found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(
                    f"{self.name}: expected a tensor of one distance per pair, shape {tuple(pairs.invalid.shape)} for "
                    f"clouds of shapes {tuple(pairs.x.shape)} and {tuple(pairs.y.shape)}, got {found}"
                )
            if (values.isnan() & ~pairs.invalid.to(values.device)).any():
                raise ValueError(f"{self.name}: it is NaN between clouds whose coordinates are all finite")
            return pairs.finish(torch.where(pairs.invalid, 0.0, values.double().to(pairs.invalid.device)))

        return checked

    @torch.no_grad()
    def check_symmetry(self, clouds: Tensor, masks: Tensor, options: Mapping[str, Any]) -> None:
        """Raise a ValueError if a user's function is not symmetric, or not zero, between the first two clouds."""
        if not self.user_defined or not self.symmetric or len(clouds) < 2:
            return
        order = [torch.tensor(index, device=clouds.device) for index in ([0, 1, 0], [1, 0, 0])]
        x, y = (clouds[index] for index in order)
        x_mask, y_mask = (masks[index] for index in order)
        there, back, own = self.bind(options)(x, y, x_mask=x_mask, y_mask=y_mask).tolist()
        if abs(there - back) > _SYMMETRY * abs(there) or abs(own) > 10 * _SYMMETRY * abs(there):
            raise ValueError(
                f"{self.name}: expected it to be symmetric and zero between a cloud and itself, got {there:.6g} and "
                f"{back:.6g} between the first two clouds and {own:.6g} between the first and itself; give "
                "symmetric=False"
            )

    def _parameters(self) -> tuple[dict[str, inspect.Parameter], bool]:
        """Parameters after the two clouds, and whether any other name is taken, too."""
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):
            # Some compiled functions have no signature.
            return {}, False
        kinds = inspect.Parameter
        named = [p for p in parameters if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
        clouds = sum(p.kind is not kinds.KEYWORD_ONLY for p in named[:2])
        return {p.name: p for p in named[clouds:]}, any(p.kind is kinds.VAR_KEYWORD for p in parameters)


DistanceLike: TypeAlias = str | Distance | Callable[..., Tensor]
# How the keys of a distance with its default options end.
SUFFIXES = {
    "chamfer": "cd",
    "hausdorff": "hd",
    "emd": "emd",
    "approximate_emd": "emd-approximate",
    "sinkhorn": "sinkhorn",
}
_RESERVED = {*SUFFIXES, *SUFFIXES.values()}
_OURS = (chamfer, hausdorff, emd, approximate_emd, sinkhorn)
DISTANCES = {
    distance.name: distance
    for distance in [
        Distance(chamfer, symmetric=True),
        Distance(hausdorff, symmetric=True),
        Distance(emd, symmetric=True, equal_sizes=True, matrices=2),
        Distance(approximate_emd, equal_sizes=True),
        Distance(sinkhorn),
    ]
}


def as_distance(given: DistanceLike, argument: str) -> Distance:
    """The distance of a name or a function; `argument` is for the message.

    Raises:
        TypeError: neither a name nor a function.
        ValueError: an unknown name, or a function that needs a name.
    """
    if isinstance(given, Distance):
        return given
    if isinstance(given, str):
        check_choice(given, tuple(DISTANCES), argument)
        return DISTANCES[given]
    if not callable(given):
        raise TypeError(f"{argument}: expected a name, a function or a Distance, got {type(given).__name__}")
    return next((distance for distance in DISTANCES.values() if distance.function is given), None) or Distance(given)
