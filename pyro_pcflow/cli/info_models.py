"""What is in model files and run folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pyro_pcflow.cli.custom import load_custom
from pyro_pcflow.cli.shared import Result, table
from pyro_pcflow.cli.train import CATEGORIES
from pyro_pcflow.distributions import MixtureOfFlows
from pyro_pcflow.infer import Completer
from pyro_pcflow.ops.reading import read_small_text
from pyro_pcflow.serialization import load
from pyro_pcflow.training import toml
from pyro_pcflow.training.objective import config_of
from pyro_pcflow.transforms import Standardize

__all__ = ["describe_model_file", "describe_run", "last_scores"]

# Of the end of metrics, this much is read: lines have some hundred bytes.
LAST_BYTES = 1 << 16
MOST_BYTES = 1 << 20


def describe_model_file(path: Path, custom: Sequence[str]) -> Result:
    """Describe a file of `pcf.save`.

    Raises:
        ValueError: no such file.
        OSError: it can't be read.
    """
    values = {"path": path, "kind": "model", **_describe_module(load(path, custom=load_custom(custom).values()))}
    return Result(values, table(_rows_of_module(values)))


def describe_run(path: Path, custom: Sequence[str]) -> Result:
    """Describe a run folder: its model, where it has ended, its settings, and its last scores.

    Raises:
        ValueError: a file of it is damaged.
        OSError: it can't be read.
    """
    model = path / "model.pt"
    config = toml.read(path / "config.toml") if (path / "config.toml").is_file() else {}
    values: dict[str, Any] = {
        "path": path,
        "kind": "run",
        "ended": model.is_file(),
        "model": _describe_module(load(model, custom=load_custom(custom).values())) if model.is_file() else None,
        **{name: config.get(name, {}) for name in ("settings", "data", "environment")},
        "extended": config.get("extended", []),
        "scores": last_scores(path / "metrics.jsonl"),
        "categories": _categories(path / CATEGORIES),
        "files": sorted(file.name for file in path.iterdir() if not file.name.startswith(".")),
    }
    return Result(values, table(_rows_of_run(values, config)))


def last_scores(path: Path) -> dict[str, Any]:
    """The last of each number that a training has logged, with the step of the last evaluation as `evaluated`.

    Args:
        path: of `metrics.jsonl`; need not exist.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metrics.jsonl")
        ...     _ = path.write_text('{"step": 1, "nats_per_point": -2.0}\\n{"step": 2, "loss": 2.5}\\n{"st')
        ...     last_scores(path)
        {'step': 2, 'nats_per_point': -2.0, 'evaluated': 1, 'loss': 2.5}
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
        # A line that the end begins amid, or that a kill cut short, is none.
        lines = [line for text in file.read().splitlines() if (line := _parsed(text)) is not None]
    found: dict[str, Any] = {}
    for line in lines:
        found.update(line)
        if "nats_per_point" in line:
            found["evaluated"] = line.get("step")
    return found


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _categories(path: Path) -> list[str]:
    return json.loads(read_small_text(path, MOST_BYTES)) if path.is_file() else []


def _describe_module(module: nn.Module) -> dict[str, Any]:
    completer = isinstance(module, Completer)
    units = [layer for layer in module.modules() if isinstance(layer, Standardize)]
    # The first is that of points, as modules are listed from the outside; each flow of a mixture has units of its own.
    own = units[0] if units else None
    is_mixture = any(isinstance(layer, MixtureOfFlows) for layer in module.modules())
    shown = None if own is None or is_mixture or not own.fitted else own
    floats = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    return {
        "class": type(module).__name__,
        "of": type(module.model).__name__ if completer else None,
        "config": config_of(module),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "frozen": sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad),
        "type": str(floats[0].dtype).removeprefix("torch.") if floats else None,
        "trained": None if own is None else own.fitted,
        "centre": None if shown is None else shown.loc.tolist(),
        "scale": None if shown is None else shown.scale.item(),
        "origin": own.origin.tolist() if own is not None and own.origin is not None else None,
    }


def _rows_of_module(values: Mapping[str, Any]) -> list[list[str]]:
    of = f" of a {values['of']}" if values["of"] else ""
    rows = [["model", values["class"] + of]]
    frozen = f", {values['frozen']:,} of them frozen" if values["frozen"] else ""
    rows.append(["parameters", f"{values['parameters']:,}, {values['type']}{frozen}"])
    if values["trained"] is not None:
        rows.append(["trained", "yes: it has the units of data" if values["trained"] else "no: it has no units yet"])
    if values["origin"] is not None:
        rows.append(["origin", f"{_numbers(values['origin'])}, subtracted from points in double precision"])
    if values["centre"] is not None:
        rows.append(["units", f"centre {_numbers(values['centre'])}, standard deviation {values['scale']:.6g}"])
    for name, value in (values["config"] or {}).items():
        rows.append([f"  {name}", _word(value)])
    return rows


def _rows_of_run(values: Mapping[str, Any], config: Mapping[str, Any]) -> list[list[str]]:
    rows = [["what", "run, ended" if values["ended"] else "run, not ended: --resume continues it"]]
    scores, settings, data = values["scores"], values["settings"], values["data"]
    units = {"max_steps": "steps", "max_seconds": "s"}
    limits = [f"{settings[name]:g} {unit}" for name, unit in units.items() if name in settings]
    if scores:
        planned = f", of {' or '.join(limits)} planned" if limits else ""
        rows.append(["step", f"{scores.get('step')} after {scores.get('seconds', 0):.1f} s{planned}"])
    if "nats_per_point" in scores:
        error = f" ± {scores['standard_error']:.3f}" if "standard_error" in scores else ""
        found = f"{scores['nats_per_point']:.3f}{error} nats per held-out point, at step {scores['evaluated']}"
        rows.append(["score", found])
    for name in ("loss", "nats_per_cloud", "log_likelihood", "kl"):
        if name in scores:
            rows.append([f"  {name}", f"{scores[name]:.6g}"])
    kinds = [(kind, data[kind]) for kind in ("clouds", "points") if kind in data]
    for kind, count in kinds:
        rows.append(["data", f"{count:,} {kind} to train on, {data.get(f'held_out_{kind}', 0):,} held out"])
    if "noise" in data:
        rows.append(["noise", f"{data['noise']:.4g}"])
    if values["categories"]:
        rows.append(["categories", ", ".join(f"{number} {name}" for number, name in enumerate(values["categories"]))])
    if values["model"] is not None:
        rows += _rows_of_module(values["model"])
    elif config.get("module"):
        rows.append(["model", f"{config['module'].get('class')}, {config['module'].get('parameters', 0):,} parameters"])
    environment = values["environment"]
    if environment:
        rows.append(["made by", ", ".join(f"{name} {value}" for name, value in environment.items())])
    return [*rows, ["files", ", ".join(values["files"])]]


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.9g}' for value in values)})"


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_word(some)}" for name, some in value.items())
    return str(value)
