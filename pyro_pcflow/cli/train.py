"""`pcflow train`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_pcflow.cli.shared import given

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_pcflow.data import MappedClouds
    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.models import PointCloudVAE

__all__ = ["add_train"]

# From so many clouds on, each is one of a kind; fewer are pooled into one shape.
MANY_CLOUDS = 16
# Enough clouds of a file to know how large its clouds are.
CLOUDS_FOR_UNITS = 64
POINTS_OF_ONE, POINTS_OF_MANY = 100_000, 2048


def add_train(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    train = commands.add_parser(
        "train",
        help="fit a flow to a shape, or a model to many shapes",
        description="Fit a flow to the points of a shape by exact maximum likelihood, or, to "
        f"{MANY_CLOUDS} clouds or more, a variational autoencoder with a flow as decoder and a flow as prior. Fewer "
        "clouds are pooled into one shape. A npy file of many clouds, as convert writes it, stays in the file.",
    )
    train.add_argument("data", nargs="?", help="a mesh, a cloud file or a folder of them; by default the embedded cow")
    train.add_argument("--out", default="runs/flow", help="run folder, a new one unless --resume (%(default)s)")
    train.add_argument("--resume", action="store_true", help="continue the run in --out after an interruption")
    train.add_argument("--max-seconds", type=float, help="training time (60 if --max-steps is not given either)")
    train.add_argument("--max-steps", type=int, help="number of steps; makes a run repeatable to the last bit")
    train.add_argument("--model", choices=("auto", "flow", "vae"), default="auto", help="(%(default)s)")
    train.add_argument("--preset", default="default", help="shape of a vae: default, nice, realnvp, cif, dpf, ...")
    train.add_argument(
        "--num-points",
        type=int,
        help=f"points sampled from a cloud ({POINTS_OF_ONE:,} of one shape, {POINTS_OF_MANY:,} of each of many)",
    )
    train.add_argument(
        "--noise",
        type=float,
        default=0.01,
        help="standard deviation of the noise that thickens a surface, as a share of the data's bounding "
        "half-side (%(default)s)",
    )
    train.add_argument("--couplings", type=int, help="number of coupling layers (12 for a flow)")
    train.add_argument("--hidden", type=int, nargs="+", help="hidden widths (64 64 for a flow)")
    train.add_argument(
        "--lr", type=float, help="peak learning rate (0.01 for a flow, 0.008 for a vae, 0.001 for presets)"
    )
    train.add_argument("--batch-size", type=int, help="points a step of a flow (2048), clouds a step of a vae (32)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--up", default="y", help="the axis that stands upright in the pictures (%(default)s)")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")
    train.set_defaults(command=_train)


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from pyro_pcflow import training
    from pyro_pcflow.data import MappedClouds, half_side
    from pyro_pcflow.training.seeding import seeded

    clouds, of_many = _load_training_data(arguments)
    some_of_them = torch.linspace(0, len(clouds) - 1, min(len(clouds), CLOUDS_FOR_UNITS)).round().long()
    some = clouds.read(some_of_them) if isinstance(clouds, MappedClouds) else clouds
    max_seconds = arguments.max_seconds
    if max_seconds is None and arguments.max_steps is None:
        max_seconds = 60.0
    make = _make_vae if of_many else _make_flow
    # A new process of torch draws its seed at random.
    with seeded(arguments.seed, torch.device("cpu")):
        module = make(arguments, some.shape[-1])
    result = training.fit(
        module,
        clouds,
        max_steps=arguments.max_steps,
        max_seconds=max_seconds,
        batch_size=arguments.batch_size,
        lr=given(arguments.lr, _learning_rate(arguments, of_many)),
        noise=arguments.noise * half_side(some),
        seed=arguments.seed,
        out=arguments.out,
        resume=arguments.resume,
        pictures={"up": arguments.up},
        device=arguments.device,
    )
    kind = "bound on held-out clouds" if of_many else "held-out points"
    print(f"{result.nats_per_point:.3f} nats per point, {kind}, after {result.steps} steps")
    names = sorted(path.name for path in Path(arguments.out).iterdir() if path.name != ".lock")
    print(f"{arguments.out}: {', '.join(names)}")


def _learning_rate(arguments: argparse.Namespace, of_many: bool) -> float:
    """The best of the benchmarks; for the published shapes, which are deeper, a cautious one that is untried."""
    if not of_many:
        return 1e-2
    return 8e-3 if arguments.preset == "default" else 1e-3


def _load_training_data(arguments: argparse.Namespace) -> tuple[Tensor | MappedClouds, bool]:
    """The clouds, and whether they are many shapes and not one."""
    from pyro_pcflow import data

    if arguments.data is None:
        if arguments.model == "vae":
            return data.load_example("body", given(arguments.num_points, POINTS_OF_MANY), seed=arguments.seed), True
        return data.load_example("spot", given(arguments.num_points, POINTS_OF_ONE), seed=arguments.seed), False
    if arguments.num_points is None and Path(arguments.data).suffix == ".npy" and arguments.model != "flow":
        try:
            mapped = data.MappedClouds(arguments.data)
        except data.CloudError:
            pass  # one cloud, or an array that load_clouds knows better
        else:
            if arguments.model == "vae" or len(mapped) >= MANY_CLOUDS:
                return mapped, True
    clouds = data.load_clouds(arguments.data, given(arguments.num_points, POINTS_OF_MANY), seed=arguments.seed)
    of_many = arguments.model == "vae" or (arguments.model == "auto" and len(clouds) >= MANY_CLOUDS)
    if not of_many and arguments.num_points is None:
        clouds = data.load_clouds(arguments.data, POINTS_OF_ONE, seed=arguments.seed)
    return clouds, of_many


def _make_flow(arguments: argparse.Namespace, point_dim: int) -> PointCloudFlow:
    from pyro_pcflow.distributions import PointCloudFlow

    if arguments.preset != "default":
        raise ValueError(f"--preset {arguments.preset} is a shape of a vae, but the data is one shape: --model vae")
    return PointCloudFlow(
        point_dim,
        num_couplings=given(arguments.couplings, 12),
        hidden_dims=given(arguments.hidden, [64, 64]),
    )


def _make_vae(arguments: argparse.Namespace, point_dim: int) -> PointCloudVAE:
    from pyro_pcflow.models import preset

    given = {"num_couplings": arguments.couplings, "hidden_dims": arguments.hidden}
    decoder = {name: value for name, value in given.items() if value is not None}
    return preset(arguments.preset, point_dim, **({"decoder": decoder} if decoder else {}))
