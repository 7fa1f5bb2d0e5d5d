"""Draw clouds of each category beside new ones of the model that is shipped for it, in one picture.

    python -m benchmarks.tools.draw_categories --out categories.png

Nothing is chosen: the data are the first clouds of each kind, the new ones the first draws of a seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import pyro_pcflow as pcf

COLUMNS = 6


def standing(clouds: Tensor) -> Tensor:
    """Clouds whose second axis is upright, with the third one upright, and turned as bodies are."""
    x, y, z = clouds.unbind(-1)
    return torch.stack([-x, z, y], -1)


def rows(num_points: int) -> dict[str, Tensor]:
    """For each category, clouds of data and draws, each of shape `(COLUMNS, num_points, 3)`, z upright."""
    found = {
        "bodies": pcf.data.load_example("body", num_points, split="test")[:COLUMNS],
        "new bodies": pcf.load_pretrained("body").sample(COLUMNS, num_points),
    }
    furniture = pcf.load_pretrained("furniture")
    for number, name in enumerate(("chair", "table")):
        data = pcf.data.load_example(name, num_points, split="train")[:COLUMNS]
        new = furniture.sample(COLUMNS, num_points, labels=torch.full((COLUMNS,), number))
        found |= {f"{name}s": standing(data), f"new {name}s": standing(new)}
    return found


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=2048, help="points of a cloud (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="picture")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    figure = pcf.plotting.plot_clouds(rows(arguments.points), size=1.6, up="z")
    pcf.plotting.save_figure(figure, arguments.out)


if __name__ == "__main__":
    main()
