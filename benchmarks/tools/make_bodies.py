"""Draw human bodies from the parametric body model Anny, as those of `body.npz` were drawn.

    python -m benchmarks.tools.make_bodies --count 100000 --out bodies.npy

Writes points of shape `(S, P, 3)`, float16, for `pcf.data.MappedClouds`: uniform by area on the surface, centred on the
bounding box and divided by half of its longest side, z up. It needs Anny (extra `bodies`): Brégier et al., Human Mesh
Modeling for Anny Body, 2025, whose body data are CC0. A body follows from the seed and its number alone; a second call
goes on where the first one was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from tqdm import tqdm

# Anny's factors of shape, with the distribution of each in `body.npz`.
Draw = Callable[[np.random.Generator], float]
FACTORS: dict[str, Draw] = {
    "gender": lambda rng: rng.beta(2, 2),
    "age": lambda rng: rng.uniform(0.33, 1),
    "muscle": lambda rng: rng.beta(2, 2),
    "weight": lambda rng: rng.beta(2, 2),
    "height": lambda rng: rng.beta(2, 2),
    "proportions": lambda rng: rng.beta(2, 2),
}
# Bones that turn, with the standard deviation in radians of each component of a normal rotation vector. Found by fits
# of the pose to bodies of `body.npz`, which leave less than a micrometre; all other bones are at rest.
TURNS = {
    "spine03": 0.1,
    "neck01": 0.1,
    "head": 0.1,
    **{f"shoulder01.{side}": 0.1 for side in "LR"},
    **{f"upperarm01.{side}": 0.35 for side in "LR"},
    **{f"lowerarm01.{side}": 0.35 for side in "LR"},
    **{f"upperleg01.{side}": 0.2 for side in "LR"},
    **{f"lowerleg01.{side}": 0.2 for side in "LR"},
}
BODIES_AT_ONCE = 32


def sample_surface(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], random: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Points uniform by area from numbers uniform in [0, 1), both of shape `(N, 3)`; three times as fast as trimesh."""
    corner, second, third = (vertices[faces[:, number]] for number in range(3))
    first_edge, second_edge = second - corner, third - corner
    area = np.linalg.norm(np.cross(first_edge, second_edge), axis=-1).cumsum()
    face = np.searchsorted(area, random[:, 0] * area[-1], side="right")
    # The half of a parallelogram that is no triangle is turned onto the other.
    along = np.where(random[:, 1:].sum(-1, keepdims=True) > 1, 1 - random[:, 1:], random[:, 1:])
    return corner[face] + along[:, :1] * first_edge[face] + along[:, 1:] * second_edge[face]


def sample_bodies(model: Any, numbers: range, num_points: int, seed: int = 0) -> NDArray[np.float64]:
    """Points on random bodies, shape `(B, num_points, 3)`, in [-1, 1].

    Args:
        model: an `anny.Anny`.
        numbers: which bodies; each has random numbers of its own.
        num_points: points on each.
        seed: decides all of them.
    """
    generators = [np.random.default_rng((seed, number)) for number in numbers]
    factors = np.array([[draw(rng) for draw in FACTORS.values()] for rng in generators])
    poses = np.zeros((len(numbers), len(TURNS), 4, 4))
    poses[..., 3, 3] = 1
    for pose, rng in zip(poses, generators, strict=True):
        vectors = rng.normal(size=(len(TURNS), 3)) * np.array(list(TURNS.values()))[:, None]
        pose[:, :3, :3] = Rotation.from_rotvec(vectors).as_matrix()
    with torch.no_grad():
        vertices = model(
            phenotype_kwargs=dict(zip(FACTORS, torch.from_numpy(factors).T, strict=True)),
            pose_parameters=dict(zip(TURNS, torch.from_numpy(poses).unbind(1), strict=True)),
        )["vertices"].numpy()
    faces = model.get_triangular_faces().numpy()
    clouds = np.stack(
        [
            sample_surface(body, faces, rng.random((num_points, 3)))
            for body, rng in zip(vertices, generators, strict=True)
        ]
    )
    low, high = clouds.min(1, keepdims=True), clouds.max(1, keepdims=True)
    return (clouds - (low + high) / 2) / ((high - low).max(-1, keepdims=True) / 2)


def write_bodies(model: Any, path: Path, count: int, num_points: int, seed: int = 0) -> None:
    """Write bodies into a npy file, which gets its name when it is whole. What a stopped call has written is kept.

    Args:
        model: an `anny.Anny`.
        path: the file.
        count: number of bodies.
        num_points: points on each.
        seed: decides all of them.

    Raises:
        FileExistsError: if there is such a file.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already: name another file")
    unfinished = path.with_name(f"{path.stem}-{count}-{num_points}-{seed}.unfinished")
    if unfinished.exists():
        clouds = open_memmap(unfinished, "r+")
    else:
        clouds = open_memmap(unfinished, "w+", np.float16, (count, num_points, 3))
    # What is not written is zero. The last batch may have been cut.
    written = max(0, int(clouds[:, 0].any(-1).sum()) - BODIES_AT_ONCE)
    for start in tqdm(range(written, count, BODIES_AT_ONCE), unit_scale=BODIES_AT_ONCE, unit="body"):
        numbers = range(start, min(start + BODIES_AT_ONCE, count))
        clouds[numbers.start : numbers.stop] = sample_bodies(model, numbers, num_points, seed)
    clouds.flush()
    unfinished.replace(path)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="number of bodies (%(default)s)")
    parser.add_argument("--num-points", type=int, default=2048, help="points on each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides all bodies (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="a npy file")
    arguments = parser.parse_args()
    # Slow to import, and no part of what the tests need.
    import anny

    write_bodies(anny.Anny(), arguments.out, arguments.count, arguments.num_points, arguments.seed)


if __name__ == "__main__":
    main()
