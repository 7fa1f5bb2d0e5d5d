"""`--config`: the settings of an earlier run, as its folder keeps them, to begin a new one with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from pyro_pcflow.cli.shared import note
from pyro_pcflow.ops.options import option_names
from pyro_pcflow.ops.reading import phrase, printable, shortened
from pyro_pcflow.serialization import current_options, plain
from pyro_pcflow.serialization.classes import Classes
from pyro_pcflow.training import CloudSampling, Logging, Optimization, toml

__all__ = ["CLASSES", "RunSettings", "merged"]

# What `train` makes, and the word of `--model` for it.
CLASSES = {"PointCloudFlow": "flow", "PointCloudVAE": "vae"}
LIMITS = ("max_steps", "max_seconds")
SETTINGS, DATA = (*LIMITS, "lr", "seed"), ("batch_size", "noise", "held_out")
WHOLE = ("max_steps", "seed", "batch_size")
# What a run writes down of its data, and what can't be asked for.
ABOUT_DATA = ("points", "points_in_a_cloud", "clouds", "point_dim", "context_dim", "sha256", "contexts_sha256")
OPTIMIZATION, SAMPLING = option_names(Optimization), option_names(CloudSampling)
LOGGING = option_names(Logging, without=["progress", "pictures"])
# As "auto" makes them of few clouds; they follow from the data.
AUTOMATIC = ("ScaleAxes(", "Shift(")
# More parts than any model has.
MOST_OBJECTS = 10_000


@dataclass
class RunSettings:
    """What a file says; nothing by default.

    Attributes:
        values: of `max_steps`, `max_seconds`, `lr`, `seed`, `batch_size`, `noise` and `held_out`, those that it says.
        optimization: options by name.
        sampling: likewise.
        logging: likewise.
        module_class: the name of the class of the module, or None.
        module_config: the keywords that make it.
        fingerprint: checksums of the data, by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    optimization: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    logging: dict[str, Any] = field(default_factory=dict)
    module_class: str | None = None
    module_config: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RunSettings:
        """Read `config.toml` of a run folder, or a part of such a file.

        Args:
            path: the file, or the folder.

        Raises:
            ValueError: no such file, or keys that no run has, or a module that `train` does not make.
            OSError: it can't be read.
        """
        path = path / "config.toml" if path.is_dir() else path
        try:
            tables = toml.read(path)
        except ValueError as error:
            raise ValueError(f"--config {printable(path)}: damaged ({phrase(error)})") from error
        with _named(path):
            return cls._of(tables)

    @classmethod
    def _of(cls, tables: dict[str, Any]) -> RunSettings:
        _check_keys("", tables, ("settings", "data", "module", "environment", "extended"))
        settings, data, module = (_table(tables, name) for name in ("settings", "data", "module"))
        _check_keys("settings.", settings, (*SETTINGS, *OPTIMIZATION, *LOGGING))
        about = [*ABOUT_DATA, *(f"held_out_{name}" for name in ABOUT_DATA)]
        _check_keys("data.", data, (*DATA, *SAMPLING, *about))
        _check_keys("module.", module, ("class", "dtype", "parameters", "config"))
        if module and module.get("class") not in CLASSES:
            raise ValueError(f"module.class is {shortened(module.get('class'))}: train makes {' or '.join(CLASSES)}")
        if module.get("dtype", "torch.float32") != "torch.float32":
            raise ValueError(f"module.dtype is {shortened(module['dtype'])}: train makes torch.float32")
        found = cls(module_class=module.get("class"), module_config=current_options(_table(module, "config")))
        for name, value in {**settings, **data}.items():
            for known, chosen in (
                ((*SETTINGS, *DATA), found.values),
                (OPTIMIZATION, found.optimization),
                (SAMPLING, found.sampling),
                (LOGGING, found.logging),
            ):
                if name in known:
                    chosen[name] = value
        _check_numbers(found.values)
        if "environment" in tables:
            # A run leaves out what is None.
            found.optimization.setdefault("patience", None)
            if found.module_class == "PointCloudVAE":
                found.sampling = {"most_points": None, "augment": None, **found.sampling}
        if found.sampling.get("augment") is not None:
            found.sampling["augment"] = _augment(found.sampling["augment"])
        found.fingerprint = {name: data[name] for name in ("sha256", "held_out_sha256") if name in data}
        try:
            Optimization(**found.optimization), CloudSampling(**found.sampling), Logging(**found.logging)
        except TypeError as error:
            raise ValueError(str(error)) from error
        if "extended" in tables:
            note("--config: the run was extended, and this one is planned as long from its start: its weights differ")
        return found

    def make(self, options: Mapping[str, Any], custom: Iterable[type]) -> nn.Module:
        """Make the module, where options take the place of what the file says of them.

        Raises:
            ValueError: options that do not go together, or that the file leaves open.
        """
        asked = merged(self.module_config, options)
        module = Classes(custom).make(self.module_class, asked, MOST_OBJECTS)
        made = toml.loads(toml.dumps(plain(module.config, "config")))
        # TOML has no None: what the file lacks must not become a default that is another.
        missing = sorted({*_paths(made)} - {*_paths(plain(asked, "config"))})
        if missing:
            raise ValueError(f"it says nothing of {', '.join(missing)}: add --set {missing[0]}=None, or another value")
        return module


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested options, where those of the second take the place of those of the first.

    Examples:
        >>> merged({"a": 1, "decoder": {"b": 2, "c": 3}}, {"decoder": {"c": 4}})
        {'a': 1, 'decoder': {'b': 2, 'c': 4}}
    """
    result = dict(first)
    for name, value in second.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def _paths(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{path}{name}.")
        else:
            yield path + name


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = tables.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {shortened(found)}, and no table")
    return found


def _check_keys(path: str, table: Mapping[str, Any], known: Collection[str]) -> None:
    unknown = sorted(f"{path}{name}" for name in table if name not in known)
    if unknown:
        raise ValueError(f"no run has {', '.join(map(printable, unknown))}; known are {', '.join(known)}")


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        whole = name in WHOLE
        if not isinstance(value, int if whole else int | float) or isinstance(value, bool):
            raise ValueError(f"{name} is {shortened(value)}: expected a {'whole ' * whole}number")


def _augment(value: Any) -> str:
    if value == "auto":
        return "auto"
    if isinstance(value, list) and all(isinstance(one, str) and one.startswith(AUTOMATIC) for one in value):
        return "auto"
    raise ValueError(f"data.augment is {value!r}, which the command line can't make: fit it in Python")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"--config {printable(path)}: {error}") from error
