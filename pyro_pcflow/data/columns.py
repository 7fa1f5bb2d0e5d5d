"""Which columns of a table are coordinates, and which are features."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_pcflow.data.column_names import AXES, DEGREES, HEIGHTS, bare_name, meaning, unit_of
from pyro_pcflow.data.shapes import PointTable
from pyro_pcflow.ops.reading import shortened

__all__ = ["Chosen", "choose_columns"]

_ANGLES = frozenset({"deg", "degree", "degrees", "°", "rad", "radian", "radians"})
# Floats hold all whole numbers up to here.
_EXACT = 1 << 53
# An error that lists more of them helps nobody.
_MOST_LISTED = 12


@dataclass(frozen=True)
class Chosen:
    """What was chosen of a table.

    Attributes:
        points: (N, D), float32 where all their columns are floats of at most 32 bits, else float64.
        features: (N, F), likewise, or None.
        names: of the coordinates.
        feature_names: of the features.
    """

    points: NDArray[Any]
    features: NDArray[Any] | None
    names: tuple[str, ...]
    feature_names: tuple[str, ...]


def choose_columns(
    table: PointTable,
    columns: str | Sequence[str | int] | None = None,
    features: str | Sequence[str | int] | None = None,
) -> Chosen:
    """Take coordinates and features out of a table.

    Args:
        table: a cloud with all that its file says of each point.
        columns: the coordinates: names or places in one text with commas, or in a list. Places count from 1, in texts
            and in lists alike. None takes the columns that names call coordinates, or all of a table of two or three
            columns without names; `"xyz"` does so too, and wants three.
        features: further columns, named in the same way.

    Returns:
        The values of the chosen columns, in the order of the choice.

    Raises:
        ValueError: columns that are not there, that can't be told apart, or that hold no real numbers.

    Examples:
        >>> table = PointTable({"X [m]": np.zeros(2), "Y [m]": np.ones(2), "red": np.zeros(2)})
        >>> chosen = choose_columns(table, features="r")
        >>> chosen.points.tolist(), chosen.names, chosen.feature_names
        ([[0.0, 1.0], [0.0, 1.0]], ('X [m]', 'Y [m]'), ('red',))
    """
    if columns is None or columns == "xyz":
        names = _find_axes(table, three=columns is not None)
    else:
        names = _resolve_all(table, columns, "columns")
        if len(names) < 2:
            raise ValueError(f"columns= names {len(names)} column; points need two or more")
    feature_names = () if features is None else _resolve_all(table, features, "features")
    return Chosen(
        _stacked(table, names, "a coordinate"),
        _stacked(table, feature_names, "a feature") if feature_names else None,
        names,
        feature_names,
    )


def _resolve_all(table: PointTable, wanted: str | Sequence[str | int], option: str) -> tuple[str, ...]:
    items: list[Any] = [item.strip() for item in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    if not items:
        raise ValueError(f"{option}= names no column")
    if not table.named and items == ["x", "y", "z"] and len(_numeric(table)) == 3:
        return _find_axes(table, three=True)
    names = tuple(_resolve(table, item, option) for item in items)
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"{option}= names the column {shortened(name)} twice")
    return names


def _resolve(table: PointTable, item: Any, option: str) -> str:
    """The name in the table of a column that the user named, by whatever name or place."""
    if isinstance(item, str):
        if item in table.columns and not (item.isdecimal() and _at_place(table, int(item)) not in (None, item)):
            if f"{item} (2)" in table.columns:
                raise ValueError(f"two columns are named {shortened(item)}: name it by its place; {_listed(table)}")
            return item
        if item.isdecimal() and item.isascii() and len(item) < 7:
            item = int(item)
    if isinstance(item, int | np.integer) and not isinstance(item, bool):
        name = _at_place(table, int(item))
        if name is None:
            raise ValueError(
                f"{option}= names column {shortened(int(item))}; places count from 1 to {len(table.columns)}"
            )
        if table.named and str(item) in table.columns and str(item) != name:
            raise ValueError(f"{option}= {item} is the name of one column and the place of another")
        return name
    if not isinstance(item, str):
        raise ValueError(f"{option}= takes names and places of columns, not {shortened(item)}")
    if not item:
        raise ValueError(f"{option}= has an empty name")
    if table.named:
        likenesses: tuple[Callable[[str], str], ...] = (str.lower, bare_name, meaning)
        for likeness in likenesses:
            found = [name for name in table.columns if likeness(name) == likeness(item)]
            if len(found) > 1:
                either = " or ".join(map(shortened, found[:4]))
                raise ValueError(f"{shortened(item)} may be {either}: name it exactly, or by its place from 1")
            if found:
                return found[0]
    raise ValueError(_missing(table, item, option))


def _missing(table: PointTable, item: str, option: str) -> str:
    if not table.named:
        places = ",".join(str(place) for place in range(1, min(len(table.columns), 3) + 1))
        return f'no column {shortened(item)}: columns have no names here, say places, as {option}="{places}"'
    by_likeness = {bare_name(name): name for name in table.columns}
    close = difflib.get_close_matches(bare_name(item)[:60], [name[:60] for name in by_likeness], n=1)
    hint = f", did you mean {shortened(by_likeness[close[0]])}?" if close and close[0] in by_likeness else ""
    return f"no column {shortened(item)}{hint or ':'} {_listed(table)}"


def _at_place(table: PointTable, place: int) -> str | None:
    return list(table.columns)[place - 1] if 1 <= place <= len(table.columns) else None


def _find_axes(table: PointTable, three: bool) -> tuple[str, ...]:
    if not table.named:
        return _axes_by_number(table, three)
    bare: dict[str, list[str]] = {}
    for name in table.columns:
        bare.setdefault(bare_name(name), []).append(name)
    whole = [axes for axes in AXES if all(name in bare for name in axes)]
    if whole:
        others = [axes for axes in whole[1:] if whole[0] != AXES[0] and axes != whole[0]]
        if others:
            raise ValueError(f'names of several kinds of coordinates: say which, as columns="x,y,z"; {_listed(table)}')
        return _one_of_each(table, bare, whole[0])
    pairs = list(dict.fromkeys(axes[:2] for axes in AXES if all(name in bare for name in axes[:2])))
    if pairs and not three and len(pairs) == 1:
        names = _one_of_each(table, bare, pairs[0])
        heights = [name for name in table.columns if bare_name(name) in HEIGHTS]
        if heights:
            two = ",".join(names)
            raise ValueError(f'no z, and a height: say columns="{two},{heights[0]}" or columns="{two}"')
        return names
    if pairs:
        found = "only " + " and ".join(pairs[0]) + ", and three coordinates were asked for"
        raise ValueError(f"{found}; {_listed(table)}")
    if any(name in DEGREES for name in bare):
        raise ValueError(
            f"longitude and latitude are degrees, no coordinates of points: project them; {_listed(table)}"
        )
    raise ValueError(f'no column is named as a coordinate: say which are, as columns="x,y,z"; {_listed(table)}')


def _one_of_each(table: PointTable, bare: dict[str, list[str]], axes: Sequence[str]) -> tuple[str, ...]:
    for axis in axes:
        if len(bare[axis]) > 1:
            raise ValueError(f'two columns are named {axis}: say places, as columns="1,2,3"; {_listed(table)}')
    names = tuple(bare[axis][0] for axis in axes)
    units = {unit for name in names if (unit := unit_of(name)) is not None}
    if units & _ANGLES:
        raise ValueError(f"{', '.join(names)} are angles, no coordinates of points: project them")
    if len(units) > 1:
        raise ValueError(f"coordinates in several units, {', '.join(names)}: bring them to one")
    return names


def _axes_by_number(table: PointTable, three: bool) -> tuple[str, ...]:
    names = list(table.columns)
    numeric = _numeric(table)
    places = [names.index(name) for name in numeric]
    together = not places or places == list(range(places[0], places[0] + len(places)))
    if (together and len(numeric) == 3) or (len(numeric) == 2 and not three and together):
        return tuple(numeric)
    if len(numeric) < 2 or (three and len(numeric) < 3):
        wanted = "three" if three else "two"
        raise ValueError(f"{len(numeric)} columns of numbers, and coordinates need {wanted}; {_listed(table)}")
    example = ",".join(str(names.index(name) + 1) for name in numeric[:3])
    found = f"{len(names)} columns without names, which can't be told apart"
    raise ValueError(f'{found}: say which are coordinates, as columns="{example}"; {_listed(table)}')


def _numeric(table: PointTable) -> list[str]:
    return [name for name, values in table.columns.items() if values.dtype.kind in "fiu"]


def _listed(table: PointTable) -> str:
    """The columns as an error shows them: names, or places with what they hold."""
    names = list(table.columns)
    more = ", ..." if len(names) > _MOST_LISTED else ""
    if table.named:
        return "there are " + ", ".join(ascii(name[:40])[1:-1] for name in names[:_MOST_LISTED]) + more
    return "they hold " + ", ".join(f"{name}: {_range(table.columns[name])}" for name in names[:_MOST_LISTED]) + more


def _range(values: NDArray[Any]) -> str:
    if values.dtype.kind not in "fiu":
        return f"words as {shortened(str(values[0]))[:20]}" if len(values) else "nothing"
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "nothing finite"
    low, high = f"{finite.min():.4g}", f"{finite.max():.4g}"
    return low if low == high else f"{low} to {high}"


def _stacked(table: PointTable, names: Sequence[str], role: str) -> NDArray[Any]:
    columns = [table.columns[name] for name in names]
    for name, values in zip(names, columns, strict=True):
        if values.dtype.kind not in ("fiu" if role == "a coordinate" else "fiub"):
            held = "words" if values.dtype.kind in "US" else str(values.dtype)
            raise ValueError(f"column {shortened(name)} holds {held}, no real numbers for {role}")
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size and not _is_exact(values):
            raise ValueError(f"column {shortened(name)} holds whole numbers beyond 2^53, which no float64 keeps")
    single = all(values.dtype.kind == "f" and values.dtype.itemsize <= 4 for values in columns)
    stacked: NDArray[Any] = np.empty((len(table), len(columns)), np.float32 if single else np.float64)
    for place, values in enumerate(columns):
        stacked[:, place] = values
    return stacked


def _is_exact(values: NDArray[Any]) -> bool:
    if int(values.max()) <= _EXACT and int(values.min()) >= -_EXACT:
        return True
    with np.errstate(all="ignore"):
        floats = values.astype(np.float64)
        # The largest integer rounds up to a float that no longer fits in the type.
        inside = floats < float(np.iinfo(values.dtype).max)
        return bool(inside.all() and (floats.astype(values.dtype) == values).all())
