"""`pcflow train`."""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_pcflow.cli.custom import add_custom, load_custom
from pyro_pcflow.cli.shared import ALL, assignments, check_parent, choose_split, given, note, number, say, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor, nn

    from pyro_pcflow.data import MappedClouds
    from pyro_pcflow.data.reading import StoredCloud

__all__ = ["add_arguments", "run"]

# From so many clouds on, each is one of a kind; fewer are pooled into one shape.
MANY_CLOUDS = 16
# Enough clouds of a file to know how large its clouds are.
CLOUDS_FOR_UNITS = 64
# The word of `fit`, which would take seconds to import.
AUTO = "auto"
POINTS_OF_ONE, POINTS_OF_MANY = 100_000, 2048


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Fit a flow to the points of a shape by exact maximum likelihood, or, to "
        f"{MANY_CLOUDS} clouds or more, a variational autoencoder with a flow as decoder and a flow as prior. Fewer "
        "clouds are pooled into one shape: all of their points, each once. A tenth of the points, or of many clouds, "
        "is held out and scored. A npy file of many clouds, as convert writes it, stays in the file."
    )
    parser.add_argument("data", nargs="?", help="a mesh, a cloud file or a folder of them; by default the embedded cow")
    parser.add_argument("--out", default="runs/flow", help="run folder, a new one unless --resume (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out after an interruption")
    parser.add_argument(
        "--split",
        help=f"train, val, test, or {ALL}: which clouds (train, where there are several splits)",
    )
    positive = number("a positive number", lambda value: value > 0)
    parser.add_argument("--max-seconds", type=positive, help="training time (60 if --max-steps is not given either)")
    parser.add_argument("--max-steps", type=whole(1), help="number of steps; makes a run repeatable to the last bit")
    parser.add_argument("--model", choices=("auto", "flow", "vae"), default="auto", help="(%(default)s)")
    parser.add_argument("--preset", default="default", help="shape of a vae: default, nice, realnvp, cif, dpf, ...")
    parser.add_argument(
        "--num-points",
        type=whole(1),
        help=f"points drawn from each mesh ({POINTS_OF_ONE:,} for one shape, {POINTS_OF_MANY:,} for each of many), and "
        f"the most of each cloud (all of one shape, {POINTS_OF_MANY:,} of each of many); none is taken twice",
    )
    parser.add_argument(
        "--noise",
        type=_noise,
        default=AUTO,
        help="standard deviation of the noise that thickens a surface: auto, which suits the spacing of the points, or "
        "a share of half of the longest side of the data's bounding box (%(default)s)",
    )
    parser.add_argument("--base", help="the noise of the flow: normal, conditional, or mixture")
    parser.add_argument("--num-components", type=whole(1), help="number of Gaussians of --base mixture")
    parser.add_argument("--num-couplings", type=whole(0), help="number of coupling layers")
    parser.add_argument("--hidden-dims", type=whole(1), nargs="+", help="hidden widths (64 64 for a flow)")
    parser.add_argument(
        "--coupling",
        nargs="+",
        metavar=("NAME", "OPTION=VALUE"),
        help="what a coupling does to a coordinate: affine, additive, spline, cubic, or a class of --custom with its "
        "options. One shape is by default a mixture under 8 cubic couplings, with --base normal or an option of the "
        "couplings normal noise under 12 affine ones",
    )
    add_custom(parser)
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="NAME=VALUE",
        help="any other option of PointCloudFlow or PointCloudVAE, such as latent_dim=32 or decoder.masks=halves; of "
        "the training optimization.grad_clip=5, sampling.encoder_points=256, logging.eval_every=100",
    )
    parser.add_argument("--lr", type=positive, help="peak learning rate (0.01 for a flow, 0.008 for a model)")
    parser.add_argument(
        "--batch-size", type=whole(1), help="points per step of a flow (2048), clouds per step of a vae (32)"
    )
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--up", default="y", help="the axis that stands upright in the pictures (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")


def _noise(text: str) -> str | float:
    return AUTO if text == AUTO else number(f"{AUTO}, or a number, at least 0", lambda value: value >= 0)(text)


class TrainingData(NamedTuple):
    """What `fit` is given: points of one shape (N, D), or clouds, as a tensor (S, N, D), a list or a file.

    With points to take the unit of the noise from, (M, D).
    """

    data: Tensor | list[Tensor] | MappedClouds
    some: Tensor
    of_many: bool


def run(arguments: argparse.Namespace) -> None:
    """Fit a flow or a model, and print its score."""
    import torch

    from pyro_pcflow import training
    from pyro_pcflow.data import half_extent
    from pyro_pcflow.models import PRESETS
    from pyro_pcflow.ops.random import seeded
    from pyro_pcflow.plotting.camera import view_matrix
    from pyro_pcflow.training.divergence import TrainingDivergedError
    from pyro_pcflow.training.options import as_device

    out = Path(arguments.out)
    check_parent(out)
    as_device(arguments.device)
    view_matrix(elev=0.0, azim=0.0, up=arguments.up)
    if arguments.preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {arguments.preset!r}")
    options = assignments(arguments.set)
    of_training = _training_options(options, arguments.up)
    of_flow = _flow_options(arguments)
    data, some, of_many = _load_training_data(arguments)
    max_seconds = arguments.max_seconds
    if max_seconds is None and arguments.max_steps is None:
        max_seconds = 60.0
    # A new process of torch draws its seed at random.
    with seeded(arguments.seed, torch.device("cpu")):
        module = _make_module(arguments.preset, options, of_flow, some.shape[-1], of_many)
    try:
        result = training.fit(
            module,
            data,
            max_steps=arguments.max_steps,
            max_seconds=max_seconds,
            batch_size=arguments.batch_size,
            lr=arguments.lr,
            noise=arguments.noise if arguments.noise == AUTO else arguments.noise * half_extent(some),
            seed=arguments.seed,
            out=arguments.out,
            resume=arguments.resume,
            device=arguments.device,
            **of_training,
        )
    except TrainingDivergedError as error:
        raise ValueError(str(error)) from error
    kind = "bound on held-out clouds" if of_many else "held-out points"
    thickened = f", with noise {result.noise:.3g}" if result.noise else ""
    say(f"{result.nats_per_point:.3f} nats per point, {kind}{thickened}, after {result.steps} steps")
    say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir() if not path.name.startswith('.')))}")


def _load_training_data(arguments: argparse.Namespace) -> TrainingData:
    import torch

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
                chosen = torch.linspace(0, len(mapped) - 1, min(len(mapped), CLOUDS_FOR_UNITS)).round().long()
                return TrainingData(mapped, mapped.read(chosen).flatten(end_dim=-2), of_many=True)
    listing = list_entries(Path(arguments.data).expanduser(), split)
    listing.warn(stacklevel=1)
    stored = iterate_stored(listing, split)
    few = list(islice(stored, MANY_CLOUDS))
    of_many = arguments.model == "vae" or (arguments.model == "auto" and len(few) == MANY_CLOUDS)
    clouds = _draw(_emptying(few, stored), arguments, of_many)
    points = torch.cat(clouds)
    if not of_many:
        return TrainingData(points, points, of_many)
    of_one_size = len({len(cloud) for cloud in clouds}) == 1
    return TrainingData(points.view(len(clouds), *clouds[0].shape) if of_one_size else clouds, points, of_many)


def _load_embedded(arguments: argparse.Namespace) -> TrainingData:
    from pyro_pcflow import data

    seed = arguments.seed
    if arguments.model != "vae":
        if arguments.split is not None:
            raise ValueError("--split: the embedded cow is one shape and has no splits")
        (cow,) = data.load_example("spot", given(arguments.num_points, POINTS_OF_ONE), seed=seed)
        return TrainingData(cow, cow, of_many=False)
    if arguments.split is None:
        note(f"the embedded bodies have the splits train and test: taking train alone; --split names another, or {ALL}")
    split = None if arguments.split == ALL else given(arguments.split, "train")
    bodies = data.load_example("body", None, split=split)
    most = given(arguments.num_points, POINTS_OF_MANY)
    if most < bodies.shape[1]:
        bodies = data.load_example("body", most, split=split, seed=seed)
    return TrainingData(bodies, bodies.flatten(end_dim=-2), of_many=True)


def _emptying(few: list[StoredCloud], others: Iterable[StoredCloud]) -> Iterable[StoredCloud]:
    """All of them, without keeping a reference to those handed out, whose files may be large."""
    few.reverse()
    while few:
        yield few.pop()
    yield from others


def _draw(stored: Iterable[StoredCloud], arguments: argparse.Namespace, of_many: bool) -> list[Tensor]:
    """Points of each cloud, none twice, so that held-out points are not trained on."""
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


def _training_options(options: dict[str, Any], up: str) -> dict[str, Any]:
    """Take the options of the training out of those of `--set`."""
    from pyro_pcflow.training import CloudSampling, Logging, Optimization, Pictures

    with _told("--set"):
        return {
            "optimization": Optimization(**options.pop("optimization", {})),
            "sampling": CloudSampling(**options.pop("sampling", {})),
            "logging": Logging(**{"pictures": Pictures(up), **options.pop("logging", {})}),
        }


def _flow_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of the flow over points that have an argument each."""
    names = ("base", "num_components", "num_couplings", "hidden_dims")
    options = {name: value for name in names if (value := vars(arguments)[name]) is not None}
    custom = load_custom(arguments.custom)
    if arguments.coupling is not None:
        options["coupling"] = _coupling(arguments.coupling, custom)
    return options


def _coupling(words: list[str], custom: Mapping[str, type]) -> Any:
    """The name of a built-in map, or an object of the user's class."""
    from pyro_pcflow.transforms.elementwise import COUPLINGS

    name, *rest = words
    options = assignments(rest)
    if name in custom:
        with _told("--coupling"):
            return custom[name](**options)
    if name not in COUPLINGS:
        raise ValueError(f"--coupling must be one of {', '.join([*COUPLINGS, *custom])}, got {name!r}")
    if options:
        raise ValueError(f"--coupling {name}: {rest[0]} is for a class of --custom")
    return name


def _make_module(
    preset: str, options: dict[str, Any], of_flow: dict[str, Any], point_dim: int, of_many: bool
) -> nn.Module:
    from pyro_pcflow import models
    from pyro_pcflow.distributions import PointCloudFlow

    if preset != "default" and not of_many:
        raise ValueError(f"--preset {preset} is a shape of a vae, but the data is one shape: --model vae")
    with _told("--set"):
        if of_many:
            decoder = dict(**options.pop("decoder", {}), **of_flow)
            return models.preset(preset, point_dim, **options, **({"decoder": decoder} if decoder else {}))
        return PointCloudFlow(point_dim, **options, **of_flow)


@contextmanager
def _told(option: str) -> Iterator[None]:
    """Turn a constructor's `TypeError`, about an option of the user's, into a `ValueError`."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{option}: {error}") from error
