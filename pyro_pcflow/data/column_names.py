"""Names of columns as programs write them, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = [
    "AXES",
    "DEGREES",
    "HEIGHTS",
    "bare_name",
    "is_known",
    "is_numbered",
    "meaning",
    "unique_names",
    "unit_of",
]

# Three names that together are coordinates, bare as `bare_name` makes them.
AXES: tuple[tuple[str, str, str], ...] = (
    ("x", "y", "z"),
    *(
        (f"{word}x", f"{word}y", f"{word}z")
        for word in ("point", "p", "pos", "position", "coord", "coordinate", "coords")
    ),
    *((f"x{word}", f"y{word}", f"z{word}") for word in ("coord", "coordinate", "coords", "pos", "position")),
    ("cartesianx", "cartesiany", "cartesianz"),
    *(
        (f"{word}0", f"{word}1", f"{word}2")
        for word in ("points:", "points", "coordinates:", "position:", "positions:")
    ),
    *(("easting", "northing", height) for height in ("z", "elevation", "elev", "height", "altitude", "up")),
    *(("east", "north", height) for height in ("z", "elevation", "elev", "height", "altitude", "up")),
    ("rechtswert", "hochwert", "höhe"),
    ("rechtswert", "hochwert", "hoehe"),
    ("x0", "x1", "x2"),
    ("x1", "x2", "x3"),
)
HEIGHTS = frozenset({"elevation", "elev", "height", "altitude", "alt", "h", "höhe", "hoehe"})
DEGREES = frozenset({"lon", "long", "longitude", "lng", "lat", "latitude"})

_FEATURES = {
    "r": ("red", "diffusered", "colorr", "colourr", "rgb0", "rgb:0", "colors:0", "color:0"),
    "g": ("green", "diffusegreen", "colorg", "colourg", "rgb1", "rgb:1", "colors:1", "color:1"),
    "b": ("blue", "diffuseblue", "colorb", "colourb", "rgb2", "rgb:2", "colors:2", "color:2"),
    "a": ("alpha", "diffusealpha", "opacity"),
    "intensity": ("i", "intensities", "reflectance", "reflectivity", "remission"),
    "nx": ("normalx", "normalsx", "xnormal", "normals:0", "normal:0"),
    "ny": ("normaly", "normalsy", "ynormal", "normals:1", "normal:1"),
    "nz": ("normalz", "normalsz", "znormal", "normals:2", "normal:2"),
    "time": ("t", "timestamp", "gpstime"),
    "label": ("class", "classification", "labels"),
    "curvature": (),
    "index": ("id", "idx", "pointid"),
    "return_number": ("returnnumber", "returnnum"),
    "ring": (),
    "range": ("distance",),
    "element": ("species", "atom", "symbol"),
}
_MEANINGS = {alias: name for name, aliases in _FEATURES.items() for alias in (name.replace("_", ""), *aliases)}
_KNOWN = frozenset(_MEANINGS) | {name for axes in AXES for name in axes} | HEIGHTS | DEGREES

_UNIT = re.compile(r"\s*(?:\[([^\[\]()]*)\]|\(([^\[\]()]*)\))\s*$")
# Behind an underscore only what is surely a unit.
_SUFFIX = re.compile(r"^([xyz])_(m|mm|cm|km|um|ft|in|deg)$", re.IGNORECASE)
_NUMBERED = re.compile(r"([^\d]*)(\d{1,6})")
_NUMBERED_WORDS = frozenset(
    {"", "col", "column", "c", "v", "var", "variable", "field", "f", "dim", "x", "spalte", "unnamed"}
)


def bare_name(name: str) -> str:
    """A name without its unit, marks, blanks and capitals.

    Examples:
        >>> bare_name("//X [m]"), bare_name("Point_X"), bare_name("Points:0"), bare_name("scalar_Intensity")
        ('x', 'pointx', 'points:0', 'intensity')
    """
    name = _marks_off(name)
    name = _UNIT.sub("", name)
    suffix = _SUFFIX.match(name)
    name = (suffix[1] if suffix else name).lower().removeprefix("scalar_")
    return re.sub(r"[\s_\-.]", "", name)


def unit_of(name: str) -> str | None:
    """The unit in a name, in small letters.

    Examples:
        >>> unit_of("X(mm)"), unit_of("x"), unit_of("Y_m")
        ('mm', None, 'm')
    """
    name = _marks_off(name)
    if (found := _UNIT.search(name)) is not None:
        return (found[1] or found[2] or "").strip().lower() or None
    suffix = _SUFFIX.match(name)
    return suffix[2].lower() if suffix else None


def meaning(name: str) -> str:
    """What a column is, whatever its program calls it; its bare name where that is unknown.

    Examples:
        >>> meaning("diffuse_red"), meaning("normal_x"), meaning("Reflectance"), meaning("Roughness (0.1)")
        ('r', 'nx', 'intensity', 'roughness')
    """
    bare = bare_name(name)
    return _MEANINGS.get(bare, bare)


def is_known(name: str) -> bool:
    """Whether programs use this name for a column of points.

    Examples:
        >>> is_known("X [m]"), is_known("made")
        (True, False)
    """
    return bare_name(name) in _KNOWN


def is_numbered(names: Sequence[str]) -> bool:
    """Whether names do no more than count the columns, from 0 or 1.

    Examples:
        >>> is_numbered(["0", "1", "2"]), is_numbered(["V1", "V2"]), is_numbered(["x", "y"]), is_numbered(["a1", "a2"])
        (True, True, False, False)
    """
    found = [_NUMBERED.fullmatch(name.strip().strip("\"'")) for name in names]
    parts = [(match[1].strip(" _:.-").lower(), int(match[2])) for match in found if match is not None]
    if len(parts) != len(names) or not parts:
        return False
    word, first = parts[0]
    return first in (0, 1) and word in _NUMBERED_WORDS and parts == [(word, first + k) for k in range(len(parts))]


def unique_names(names: Iterable[str]) -> list[str]:
    """Names by which columns can be told apart; a repeated one gets the number of its repeat behind it.

    Examples:
        >>> unique_names(["x", "y", "x", ""])
        ['x', 'y', 'x (2)', 'column 4']
    """
    given = [name or f"column {place}" for place, name in enumerate(names, 1)]
    taken, unique = set(given), []
    seen: dict[str, int] = {}
    for name in given:
        seen[name] = count = seen.get(name, 0) + 1
        if count > 1:
            own = name
            while own in taken:
                own = f"{name} ({count})"
                count += 1
            seen[name] = count - 1
            taken.add(own)
            name = own
        unique.append(name)
    return unique


def _marks_off(name: str) -> str:
    return name.strip().strip("\"'").lstrip("/#").strip()
