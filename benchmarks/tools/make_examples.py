"""Make the embedded examples of `pyro_pcflow.data` from the full data sets.

    python -m benchmarks.tools.make_examples SOURCE [--out FOLDER]

SOURCE holds `body.npz`, `chair.npz`, `table.npz` and `meshes/spot.obj`, each npz with arrays `points`
(S, P, 3), `ids` and `split`, furniture also with `licence`, `name` and `creator`. Only CC0 and
public-domain shapes are taken. The same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np

BODIES = {"train": 240, "test": 60}
FURNITURE_POINTS = 8192
LIMIT = 6_000_000
# Filed among the tables, and not a table.
LEFT_OUT = ("Desk lamp",)


def quantise(points: np.ndarray) -> dict[str, Any]:
    """Store coordinates in 16 bits each.

    Args:
        points: (S, P, D).

    Returns:
        `quantised` (S, P, D) uint16, and `offset` and `step` (D,) float64.
    """
    offset = points.min(axis=(0, 1)).astype(np.float64)
    step = (points.max(axis=(0, 1)) - offset) / np.iinfo(np.uint16).max
    return {"quantised": np.rint((points - offset) / step).astype(np.uint16), "offset": offset, "step": step}


def make_bodies(source: Path, out: Path) -> None:
    """Keep the first bodies of each split, with all of their points."""
    with np.load(source / "body.npz") as arrays:
        split = arrays["split"]
        chosen = np.concatenate([np.flatnonzero(split == key)[:count] for key, count in BODIES.items()])
        kept = {key: arrays[key][chosen] for key in ("ids", "split")}
        np.savez_compressed(out / "body.npz", **quantise(arrays["points"][chosen]), **kept)


def make_furniture(source: Path, out: Path, name: str) -> None:
    """Keep the CC0 shapes of a category, with a random part of their points."""
    with np.load(source / f"{name}.npz") as arrays:
        free = (arrays["licence"] == "CC0") & ~np.isin(arrays["name"], LEFT_OUT)
        subset = np.random.default_rng(0).permutation(arrays["points"].shape[1])[:FURNITURE_POINTS]
        kept = {key: arrays[key][free] for key in ("ids", "split", "name", "creator")}
        np.savez_compressed(out / f"{name}.npz", **quantise(arrays["points"][free][:, subset]), **kept)


def main() -> None:
    """Write the four files, and refuse to go over the size that the package allows."""
    parser = argparse.ArgumentParser(description="Make the embedded examples.")
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("pyro_pcflow/data/examples"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    make_bodies(options.source, options.out)
    for name in ("chair", "table"):
        make_furniture(options.source, options.out, name)
    shutil.copyfile(options.source / "meshes" / "spot.obj", options.out / "spot.obj")
    size = sum(file.stat().st_size for file in options.out.iterdir())
    if size > LIMIT:
        raise SystemExit(f"{size} bytes of examples, more than {LIMIT}")


if __name__ == "__main__":
    main()
