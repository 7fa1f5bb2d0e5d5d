"""Shared by commands that explain one scan: the scan, the sensor that saw it, and a file of what was found."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.cli.data_options import LeftOut, folder_options_of, selection_of
from pyro_pcflow.cli.models import SavedModel
from pyro_pcflow.cli.shared import note
from pyro_pcflow.data.listing import list_entries
from pyro_pcflow.data.reading import iterate_stored
from pyro_pcflow.distributions import ThinnedPoint, one_sided
from pyro_pcflow.ops.files import new_file

__all__ = ["half_space", "read_scan", "write_json"]

# For the probability that a point is seen: it is computed in every step.
SENSOR_SAMPLES = 512


def read_scan(arguments: argparse.Namespace, model: SavedModel) -> Tensor:
    """The only cloud of a file, `(N, D)`: as the model computes, or float64 where its type would lose digits.

    Args:
        arguments: `scan`, the path of a cloud file or a mesh; `scan_points` to draw, None for all points of a cloud
            file; the `seed` of the draw; and the options of `add_data_options`. How many points are left out is told.
        model: that will explain it.

    Raises:
        ValueError: several clouds, a mesh without a number of points, or points of other dimensions.
        OSError: nothing to read there.
    """
    path, num_points = arguments.scan, arguments.scan_points
    clouds = iterate_stored(list_entries(Path(path).expanduser(), None, folder_options_of(arguments)), None)
    stored = next(clouds)
    if stored.remaining:
        raise ValueError(f"{path} holds {1 + stored.remaining} clouds or more: give a file of one scan")
    if stored.num_points is None and num_points is None:
        raise ValueError(f"{path} is a mesh, which has any number of points: say how many to draw with --scan-points")
    drawn = stored.draw(num_points, arguments.seed, selection_of(arguments))
    left_out = LeftOut()
    left_out.add(drawn.dropped, drawn.strays)
    if str(left_out):
        note(str(left_out))
    model.check_dim(drawn.joined.shape[1], path)
    # The array may be that of a file which must not be written to.
    points = torch.from_numpy(drawn.joined.copy())
    return points.to(model.device, torch.promote_types(points.dtype, model.dtype))


def half_space(arguments: argparse.Namespace, scan: Tensor) -> Callable[[Distribution], ThinnedPoint] | None:
    """The sensor that `--direction`, `--offset` and `--softness` describe; None if there is none.

    Raises:
        ValueError: options of a sensor without its direction, or a direction of length 0.
    """
    if arguments.direction is None:
        if arguments.offset is not None or arguments.softness is not None:
            raise ValueError("--offset and --softness are of a sensor that sees one side: give --direction, too")
        return None
    direction = scan.new_tensor(arguments.direction)
    if len(direction) != scan.shape[-1] or not direction.norm() > 0:
        raise ValueError(f"--direction: expected {scan.shape[-1]} numbers, not all of them 0")
    direction = direction / direction.norm()
    offset = 0.0 if arguments.offset is None else arguments.offset
    softness = 0.05 if arguments.softness is None else arguments.softness

    def seen(point: Distribution) -> ThinnedPoint:
        return one_sided(point, direction, offset, softness, SENSOR_SAMPLES)

    return seen


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a new file of numbers, arrays and words; what is not finite is null, since JSON has no word for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.write(f"{json.dumps(_plain(content), indent=1, allow_nan=False)}\n".encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(some) for key, some in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(some) for some in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
