r"""How often `complete` doubts what it found: good scans, and bad ones.

    python -m benchmarks.checks data/ --split test                   # data/ has body.npz, face.npz and chair.npz
    python -m benchmarks.checks data/ --split val --clouds 20

Scans of bodies are completed by the shipped model with all defaults. Good ones should pass: bodies seen from one side
with the sensor given, by a camera, cropped and whole. Bad ones should be flagged, each for a reason of its own. The
thresholds were chosen on the val split.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.constants import NOISE_PER_HALF_EXTENT
from benchmarks.common.sensors import box_of_outliers, draw_points, make_sensor, with_outliers

UP = torch.tensor([0.0, 0.0, 1.0])
OUTLIERS = 0.1
# How far apart two bodies in one scan stand, in units of half of a body's height.
APART = 0.6


def load_clouds(path: Path, split: str, count: int) -> Tensor:
    """Clouds of a split, thickened as the model's training data were, shape `(S, N, 3)`."""
    with np.load(path) as file:
        points = torch.from_numpy(file["points"][file["split"] == split][:count, :2048])
    return points + NOISE_PER_HALF_EXTENT * torch.randn_like(points)


def seen(view: str, clouds: Tensor, count: int) -> tuple[Tensor, Tensor, Any]:
    """What a sensor records of clouds, where it is points, and the sensor."""
    sensor = make_sensor(view, clouds, UP)
    return *draw_points(clouds, sensor.records(clouds), count), sensor.observe


def lying(points: Tensor) -> Tensor:
    """Turned by a right angle about the axis from left to right."""
    return torch.stack([points[..., 0], -points[..., 2], points[..., 1]], -1)


def two(points: Tensor) -> Tensor:
    """Every other point of the next cloud, both moved aside."""
    aside = torch.tensor([0.5 * APART, 0.0, 0.0])
    first = torch.arange(points.shape[1]) % 2 == 0
    return torch.where(first.unsqueeze(-1), points - aside, points.roll(1, 0) + aside)


def cases(bodies: Tensor, faces: Tensor, chairs: Tensor, count: int) -> dict[str, Callable[[], tuple[bool, Any]]]:
    """By name, what runs a completion, and whether its input is good."""
    vae = pcf.load_pretrained("body")

    def run(points: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
        return pcf.complete(vae, points, points.shape[1], mask=mask, **options)

    def viewed(view: str, change: Callable[[Tensor], Tensor] = lambda x: x, sensor: bool = True) -> Any:
        points, mask, observe = seen(view, bodies, count)
        return run(change(points), mask, observe=observe if sensor else None)

    whole = bodies[:, :count]
    low, high = box_of_outliers(bodies)

    def spoilt(points: Tensor) -> Tensor:
        return with_outliers(points, OUTLIERS, low, high)

    def without_sensor() -> Any:
        points, mask, _ = seen("half", bodies, count)
        return run(points, mask, proposal=None)

    return {
        "good: half": lambda: (True, viewed("half")),
        "good: camera": lambda: (True, viewed("depth")),
        "good: crop": lambda: (True, viewed("crop")),
        "good: whole": lambda: (True, run(whole)),
        "ten times as large": lambda: (False, run(10 * whole)),
        "a tenth as large": lambda: (False, run(0.1 * whole)),
        "twice as large": lambda: (False, run(2 * whole)),
        "twice as large, half": lambda: (False, viewed("half", lambda x: 2 * x)),
        "half as large": lambda: (False, run(0.5 * whole)),
        "lying": lambda: (False, run(lying(whole))),
        "lying, half": lambda: (False, viewed("half", lying)),
        "faces": lambda: (False, run(faces[:, :count])),
        "chairs": lambda: (False, run(chairs[:, :count])),
        "10% outliers": lambda: (False, run(spoilt(whole))),
        "10% outliers, half": lambda: (False, viewed("half", spoilt)),
        "sensor not given": lambda: (False, without_sensor()),
        "two bodies": lambda: (False, run(two(whole))),
    }


def main() -> None:
    """Complete, and count doubts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of category files")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--clouds", type=int, default=50, help="of each case (%(default)s)")
    parser.add_argument("--points", type=int, nargs="+", default=[100, 300], help="of a scan (%(default)s)")
    parser.add_argument("--statistics", action="store_true", help="print quantiles of each statistic")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    bodies, faces, chairs = (
        load_clouds(arguments.data / f"{name}.npz", arguments.split, arguments.clouds)
        for name in ("body", "face", "chair")
    )
    shares: dict[bool, list[float]] = {True: [], False: []}
    for count in arguments.points:
        for name, run in cases(bodies, faces, chairs, count).items():
            good, result = run()
            report = result.check()
            flagged = float((~report.passed).float().mean())
            shares[good].append(flagged)
            print(f"{count:5d} points  {name:22s} flagged {flagged:.0%} of {len(report.passed)}", flush=True)
            if arguments.statistics:
                for field in ("strange", "missed", "missing", "prior", "r_hat", "ratio"):
                    values = getattr(report, field)
                    if not values.isnan().all():
                        quantiles = values.nanquantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
                        print(f"      {field:8s}", *(f"{value:8.3f}" for value in quantiles))
    for good, values in shares.items():
        print(f"{'good' if good else 'bad'}: {sum(values) / len(values):.1%} flagged, over {len(values)} cases")


if __name__ == "__main__":
    main()
