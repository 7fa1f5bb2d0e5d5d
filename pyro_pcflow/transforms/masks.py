"""Masks of coupling layers: which coordinates are kept and which are moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["MASK_PATTERNS", "check_mask", "coupling_masks", "iterate_masks", "mask_repr"]

Mask = tuple[bool, ...]

MASK_PATTERNS = ("move_one", "keep_one", "alternate", "halves")


def coupling_masks(point_dim: int, num_couplings: int, pattern: str = "move_one") -> list[Mask]:
    """The masks of a stack, from the noise to the data; `True` marks a kept coordinate.

    Args:
        point_dim: number of coordinates `D`, at least 2.
        num_couplings: number of layers `L`.
        pattern: `"move_one"` moves one coordinate at a time and keeps the others, cyclically; `"keep_one"`
            keeps one and moves the others; `"alternate"` does the two in turn on each coordinate;
            `"halves"` keeps every second coordinate, then the rest (RealNVP's checkerboard).

    Returns:
        `L` tuples of `D` booleans.

    Raises:
        ValueError: if `D < 2`, `L < 1` or the pattern is not known.

    Examples:
        >>> coupling_masks(3, 2, "move_one")
        [(False, True, True), (True, False, True)]
    """
    return list(iterate_masks(point_dim, num_couplings, pattern))


def iterate_masks(point_dim: int, num_couplings: int, pattern: str) -> Iterator[Mask]:
    """The masks of `coupling_masks` one by one, so that a file that asks for too many stops at the first layers."""
    if point_dim < 2:
        raise ValueError(f"a coupling needs points of at least 2 coordinates, got point_dim={point_dim}")
    if num_couplings < 1:
        raise ValueError(f"num_couplings must be at least 1, got {num_couplings}")
    if pattern not in MASK_PATTERNS:
        raise ValueError(f"masks must be one of {', '.join(MASK_PATTERNS)}, got {pattern!r}")
    return (_mask(point_dim, layer, pattern) for layer in range(num_couplings))


def _mask(point_dim: int, layer: int, pattern: str) -> Mask:
    if pattern == "halves":
        return tuple(i % 2 == layer % 2 for i in range(point_dim))
    if pattern == "alternate":
        coordinate, moves_one = layer // 2 % point_dim, layer % 2 == 0
    else:
        coordinate, moves_one = layer % point_dim, pattern == "move_one"
    return tuple((i != coordinate) == moves_one for i in range(point_dim))


def check_mask(mask: Sequence[bool], point_dim: int) -> Mask:
    """Return the mask as a tuple of booleans, or raise a `ValueError` that says what is wrong with it."""
    mask = tuple(bool(keep) for keep in mask)
    if len(mask) != point_dim:
        raise ValueError(f"a mask needs one entry for each of the {point_dim} coordinates, got {len(mask)}: {mask}")
    if all(mask) or not any(mask):
        raise ValueError(f"a mask must keep at least one coordinate and move at least one, got {mask}")
    return mask


def mask_repr(mask: Sequence[bool]) -> str:
    """A mask as one character per coordinate: `=` kept, `>` moved."""
    return "".join("=" if keep else ">" for keep in mask)
