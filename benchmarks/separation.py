"""1-NNA on sets with a known answer: two halves of one data set, which are alike, and two data sets, which are not.

    python -m benchmarks.separation body.npz chair.npz --turn x,z,-y     # the table of docs/benchmarks.md
    python -m benchmarks.separation body.npz chair.npz --distance emd    # by exact EMD, some minutes

Each split into halves stands beside its own permutation band. The two sets are compared as they are stored; turned, if
``--turn`` says which axes of the first become x, y and z, so that both stand upright alike; and with each cloud moved
to its mean and scaled by its standard deviation, which leaves nothing but its shape. As many clouds of the first as the
second has are drawn for each number.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import pyro_pcflow as pcf

AXES = {f"{sign}{name}": (number, -1.0 if sign else 1.0) for number, name in enumerate("xyz") for sign in ("", "-")}


def load(path: Path) -> Tensor:
    """All clouds of a category file, (S, P, 3)."""
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["points"])


def parse_axes(text: str) -> list[str]:
    """The names of three axes."""
    axes = text.split(",")
    if len(axes) != 3 or any(axis not in AXES for axis in axes) or {axis[-1] for axis in axes} != set("xyz"):
        raise argparse.ArgumentTypeError(f"expected each of x, y and z once, some with a minus, got {text!r}")
    return axes


def turned(clouds: Tensor, axes: list[str]) -> Tensor:
    """The same clouds with the named axes as x, y and z."""
    columns, signs = zip(*(AXES[axis] for axis in axes), strict=True)
    return clouds[..., list(columns)] * torch.tensor(signs)


def row(what: str, normalization: str, report: pcf.metrics.Report) -> str:
    """A line of the table."""
    key = next(key for key in report if key.startswith("1-nna"))
    values = report.draws[key]
    band = report.null[key]
    spread = f"{report[key]:.1%}" if len(values) == 1 else f"{report[key]:.1%} ({min(values):.1%} to {max(values):.1%})"
    halves = " | ".join(f"{report[f'{key}-{half}']:.1%}" for half in ("ref", "smp"))
    return f"| {what} | {normalization} | {spread} | {halves} | {band.low:.1%} to {band.high:.1%} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="category file of many clouds, which is also halved")
    parser.add_argument("second", type=Path, help="category file of other clouds")
    parser.add_argument("--turn", type=parse_axes, metavar="AXES", help="axes of the first, such as x,z,-y")
    parser.add_argument("--distance", default="chamfer", help="%(default)s")
    parser.add_argument("--points", type=int, default=512, help="of each cloud (%(default)s)")
    parser.add_argument("--halves", type=int, default=200, help="clouds of each half (%(default)s)")
    parser.add_argument("--draws", type=int, default=5, help="splits, and draws of the first (%(default)s)")
    arguments = parser.parse_args()
    first, second = load(arguments.first), load(arguments.second)
    options = {"distances": [arguments.distance], "num_points": arguments.points}
    one, other = arguments.first.stem, arguments.second.stem

    print(f"1-NNA by {arguments.distance}, clouds of {arguments.points} points\n")
    print("| compared | normalisation | 1-NNA | of references | of samples | 95% band if alike |")
    print("| --- | --- | --- | --- | --- | --- |")
    for split in range(arguments.draws):
        order = torch.randperm(len(first), generator=torch.Generator().manual_seed(split))
        samples, references = first[order[: 2 * arguments.halves]].split(arguments.halves)
        print(
            row(f"two halves of `{one}`, split {split}", "none", pcf.metrics.evaluate(samples, references, **options)),
            flush=True,
        )
    placed = {f"`{one}` and `{other}`, as stored": first}
    if arguments.turn:
        placed[f"`{one}`, axes {' '.join(arguments.turn)}, and `{other}`"] = turned(first, arguments.turn)
    for what, clouds in placed.items():
        for normalization in ("none", "per_cloud"):
            report = pcf.metrics.evaluate(clouds, second, draws=arguments.draws, normalization=normalization, **options)
            print(row(what, normalization, report), flush=True)


if __name__ == "__main__":
    main()
