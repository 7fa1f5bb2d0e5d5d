"""`pcflow train`."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_pcflow.cli.shared import ALL, check_parent, choose_split, given, note, number, say, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from pyro_pcflow.data import MappedClouds
    from pyro_pcflow.data.reading import StoredCloud
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
        "clouds are pooled into one shape: all of their points, each once. A tenth of the points, or of many clouds, "
        "is held out and scored. A npy file of many clouds, as convert writes it, stays in the file.",
    )
    train.add_argument("data", nargs="?", help="a mesh, a cloud file or a folder of them; by default the embedded cow")
    train.add_argument("--out", default="runs/flow", help="run folder, a new one unless --resume (%(default)s)")
    train.add_argument("--resume", action="store_true", help="continue the run in --out after an interruption")
    train.add_argument(
        "--split",
        help=f"train, val, test, or {ALL}: which clouds (train, where there are several splits)",
    )
    positive = number("a positive number", lambda value: value > 0)
    train.add_argument("--max-seconds", type=positive, help="training time (60 if --max-steps is not given either)")
    train.add_argument("--max-steps", type=whole(1), help="number of steps; makes a run repeatable to the last bit")
    train.add_argument("--model", choices=("auto", "flow", "vae"), default="auto", help="(%(default)s)")
    train.add_argument("--preset", default="default", help="shape of a vae: default, nice, realnvp, cif, dpf, ...")
    train.add_argument(
        "--num-points",
        type=whole(1),
        help=f"points drawn from each mesh ({POINTS_OF_ONE:,} for one shape, {POINTS_OF_MANY:,} for each of many), and "
        f"the most of each cloud (all of one shape, {POINTS_OF_MANY:,} of each of many); none is taken twice",
    )
    train.add_argument(
        "--noise",
        type=number("a number, at least 0", lambda value: value >= 0),
        default=0.01,
        help="standard deviation of the noise that thickens a surface, as a share of half of the longest side of the "
        "data's bounding box (%(default)s)",
    )
    train.add_argument("--couplings", type=whole(1), help="number of coupling layers (12 for a flow)")
    train.add_argument("--hidden", type=whole(1), nargs="+", help="hidden widths (64 64 for a flow)")
    train.add_argument(
        "--lr", type=positive, help="peak learning rate (0.01 for a flow, 0.008 for a vae, 0.001 for presets)"
    )
    train.add_argument(
        "--batch-size", type=whole(1), help="points per step of a flow (2048), clouds per step of a vae (32)"
    )
    train.add_argument("--seed", type=whole(0), default=0)
    train.add_argument("--up", default="y", help="the axis that stands upright in the pictures (%(default)s)")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")
    train.set_defaults(command=_train)


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from pyro_pcflow import training
    from pyro_pcflow.data import half_side
    from pyro_pcflow.models import PRESETS
    from pyro_pcflow.plotting.camera import view_matrix
    from pyro_pcflow.training.options import as_device
    from pyro_pcflow.training.seeding import seeded

    out = Path(arguments.out)
    check_parent(out)
    as_device(arguments.device)
    view_matrix(elev=0.0, azim=0.0, up=arguments.up)
    if arguments.preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {arguments.preset!r}")
    data, of_many = _load_training_data(arguments)
    some = _some_points(data)
    max_seconds = arguments.max_seconds
    if max_seconds is None and arguments.max_steps is None:
        max_seconds = 60.0
    make = _make_vae if of_many else _make_flow
    # A new process of torch draws its seed at random.
    with seeded(arguments.seed, torch.device("cpu")):
        module = make(arguments, some.shape[-1])
    result = training.fit(
        module,
        data,
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
    say(f"{result.nats_per_point:.3f} nats per point, {kind}, after {result.steps} steps")
    say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir() if not path.name.startswith('.')))}")


def _learning_rate(arguments: argparse.Namespace, of_many: bool) -> float:
    """The best of the benchmarks; for the published shapes, which are deeper, a cautious one that is untried."""
    if not of_many:
        return 1e-2
    return 8e-3 if arguments.preset == "default" else 1e-3


def _load_training_data(arguments: argparse.Namespace) -> tuple[Tensor | list[Tensor] | MappedClouds, bool]:
    """Points of one shape, (N, D), and False; or clouds, (S, N, D), a list of them or a file, and True."""
    from pyro_pcflow import data
    from pyro_pcflow.data.listing import list_entries
    from pyro_pcflow.data.reading import iterate_stored

    if arguments.data is None:
        return _load_embedded(arguments)
    split = choose_split(arguments.data, arguments.split, default="train")
    is_npy = Path(arguments.data).suffix == ".npy"
    if arguments.num_points is None and is_npy and split is None and arguments.model != "flow":
        try:
            mapped = data.MappedClouds(arguments.data)
        except data.CloudError:
            pass  # one cloud, or an array that is read whole
        else:
            if arguments.model == "vae" or len(mapped) >= MANY_CLOUDS:
                return mapped, True
    listing = list_entries(Path(arguments.data).expanduser(), split)
    listing.warn(stacklevel=1)
    stored = iterate_stored(listing, split)
    few = list(islice(stored, MANY_CLOUDS))
    of_many = arguments.model == "vae" or (arguments.model == "auto" and len(few) == MANY_CLOUDS)
    clouds = _draw(_emptying(few, stored), arguments, of_many)
    if not of_many:
        import torch

        return torch.cat(clouds), False
    return _stacked(clouds), True


def _load_embedded(arguments: argparse.Namespace) -> tuple[Tensor, bool]:
    from pyro_pcflow import data

    seed = arguments.seed
    if arguments.model != "vae":
        if arguments.split is not None:
            raise ValueError("--split: the embedded cow is one shape and has no splits")
        (cow,) = data.load_example("spot", given(arguments.num_points, POINTS_OF_ONE), seed=seed)
        return cow, False
    if arguments.split is None:
        note(f"the embedded bodies have the splits train and test: taking train alone; --split names another, or {ALL}")
    split = None if arguments.split == ALL else given(arguments.split, "train")
    bodies = data.load_example("body", None, split=split)
    most = given(arguments.num_points, POINTS_OF_MANY)
    return bodies if most >= bodies.shape[1] else data.load_example("body", most, split=split, seed=seed), True


def _emptying(few: list[StoredCloud], others: Iterable[StoredCloud]) -> Iterable[StoredCloud]:
    """All of them, without a hold on those that were handed out, whose files may be large."""
    few.reverse()
    while few:
        yield few.pop()
    yield from others


def _draw(stored: Iterable[StoredCloud], arguments: argparse.Namespace, of_many: bool) -> list[Tensor]:
    """Points of each cloud, none of them twice: held-out points that were trained on would say nothing."""
    import torch

    clouds: list[Tensor] = []
    for cloud in stored:
        most = POINTS_OF_MANY if of_many else POINTS_OF_ONE if cloud.num_points is None else cloud.num_points
        most = given(arguments.num_points, most)
        drawn = cloud.draw(most if cloud.num_points is None else min(most, cloud.num_points), arguments.seed)
        if clouds and drawn.shape[1] != clouds[0].shape[1]:
            raise ValueError(
                f"{cloud.entry.path}: points of {drawn.shape[1]} coordinates, but those before have "
                f"{clouds[0].shape[1]}: expected the same for all"
            )
        # The array may be that of a file which must not be written to.
        clouds.append(torch.from_numpy(drawn.copy()))
    return clouds


def _stacked(clouds: list[Tensor]) -> Tensor | list[Tensor]:
    import torch

    return torch.stack(clouds) if len({len(cloud) for cloud in clouds}) == 1 else clouds


def _some_points(data: Tensor | list[Tensor] | MappedClouds) -> Tensor:
    """Points to take the unit of the noise from, (M, D): of a file, those of some evenly spaced clouds."""
    import torch

    if isinstance(data, torch.Tensor):
        return data.flatten(end_dim=-2)
    if isinstance(data, list):
        return torch.cat(data)
    chosen = torch.linspace(0, len(data) - 1, min(len(data), CLOUDS_FOR_UNITS)).round().long()
    return data.read(chosen).flatten(end_dim=-2)


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
