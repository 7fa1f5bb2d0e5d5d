"""What a model of bodies knows: reconstructions found among all, and walks that stay among bodies.

    python -m benchmarks.bodies model.pt body.npz

A reconstruction is compared with every test body by the Chamfer distance, the sum of both means of squared distances
to the nearest point. A walk leads from one test body to another; a linear blend moves each point of the one along a
line to the point of the other that an optimal matching pairs it with, or to any, as the points come. The distance of a
cloud to real bodies is that to the nearest of the train split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from torch import Tensor

import pyro_pcflow as pcf
from benchmarks.common.categories import load_splits

NUM_POINTS = 1024


def chamfer(x: Tensor, trees: list[cKDTree]) -> np.ndarray:
    """Chamfer distances of one cloud, shape ``(N, D)``, to many."""
    points = x.double().numpy()
    own = cKDTree(points)
    return np.array(
        [np.square(tree.query(points)[0]).mean() + np.square(own.query(tree.data)[0]).mean() for tree in trees]
    )


def trees_of(clouds: Tensor) -> list[cKDTree]:
    """Search trees of clouds of shape ``(S, N, D)``."""
    return [cKDTree(cloud.double().numpy()) for cloud in clouds]


def matched(a: Tensor, b: Tensor) -> Tensor:
    """The points of ``b`` in the order in which an optimal matching pairs them with those of ``a``."""
    return b[torch.from_numpy(linear_sum_assignment(torch.cdist(a, b).square().numpy())[1])]


def main() -> None:
    """Print the shares and distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model file that pcf.save or pcf.fit wrote")
    parser.add_argument("data", type=Path, help="a category file with points and split, in the units of the model")
    parser.add_argument("--walks", type=int, default=20, help="walks between test bodies (%(default)s)")
    arguments = parser.parse_args()
    vae = pcf.load(arguments.model).float()
    assert isinstance(vae, pcf.PointCloudVAE)
    train, _, test = load_splits(arguments.data)
    # The encoder sees other points of the surface than those that are compared with.
    train, test, seen = train[:, :NUM_POINTS], test[:, :NUM_POINTS], test[:, NUM_POINTS:]
    torch.manual_seed(0)

    again, trees = vae.reconstruct(seen, NUM_POINTS), trees_of(test)
    nearer = []
    for i, cloud in enumerate(again):
        distances = chamfer(cloud, trees)
        nearer.append(float((np.delete(distances, i) > distances[i]).mean()))
    print(f"a reconstruction is nearer to its own cloud than to this share of the other {len(test) - 1} test bodies:")
    print(
        f"  mean {np.mean(nearer):.4f}, least {min(nearer):.4f}, "
        f"at least 0.99 for {np.mean(np.array(nearer) >= 0.99):.1%} of them"
    )

    pairs = torch.randperm(len(test))[: 2 * arguments.walks].reshape(-1, 2)
    trees, finite = trees_of(train), True
    to_nearest: dict[str, list[float]] = {"walk": [], "blend, matched": [], "blend, unmatched": []}
    for first, second in pairs.tolist():
        walk = vae.interpolate(seen[first], seen[second], 5, NUM_POINTS)
        finite &= bool(walk.isfinite().all())
        partner = matched(test[first], test[second])
        between = {
            "walk": walk[1:-1],
            "blend, matched": torch.stack([torch.lerp(test[first], partner, t) for t in (0.25, 0.5, 0.75)]),
            "blend, unmatched": torch.stack([torch.lerp(test[first], test[second], t) for t in (0.25, 0.5, 0.75)]),
        }
        for name, clouds in between.items():
            to_nearest[name] += [chamfer(cloud, trees).min() for cloud in clouds]
    print(f"{arguments.walks} walks, {'all finite' if finite else 'NOT FINITE'}; distance to the nearest train body:")
    for name, values in to_nearest.items():
        print(f"  {name}: {np.mean(values):.5f}")


if __name__ == "__main__":
    main()
