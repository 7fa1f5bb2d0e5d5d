"""`pcflow train`."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_pcflow.cli.custom import add_custom, load_custom
from pyro_pcflow.cli.data_options import LeftOut, add_data_options, folder_options_of, selection_of
from pyro_pcflow.cli.shared import (
    ALL,
    Result,
    add_device,
    add_json,
    assignments,
    check_exists,
    check_parent,
    choose_split,
    given,
    note,
    number,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor, nn

    from pyro_pcflow.cli.config import RunSettings
    from pyro_pcflow.data import MappedClouds
    from pyro_pcflow.data.drawing import DrawnCloud, Selection, StoredCloud

__all__ = ["CATEGORIES", "add_arguments", "check", "run"]

# From so many clouds on, each is one of a kind; fewer are pooled into one shape.
MANY_CLOUDS = 16
# Enough clouds of a file to know how large its clouds are.
CLOUDS_FOR_UNITS = 64
# The word of `fit`, which would take seconds to import.
AUTO = "auto"
POINTS_OF_ONE, POINTS_OF_MANY = 100_000, 2048
# In the run folder, the names of the classes in the order of their numbers.
CATEGORIES = "categories.json"
# Any of these makes a folder one of a run.
FILES_OF_A_RUN = ("config.toml", "metrics.jsonl", "checkpoint.pt", "model.pt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Fit a flow to the points of a shape by exact maximum likelihood, or, to "
        f"{MANY_CLOUDS} clouds or more, a variational autoencoder with a flow as decoder and a flow as prior. Fewer "
        "clouds are pooled into one shape: all of their points, each once. A tenth of the points, or of many clouds, "
        "is held out and scored. A npy file of many clouds, as convert writes it, stays in the file."
    )
    parser.epilog = (
        "examples:\n"
        "  pcflow train my_scan.ply --out runs/scan --max-seconds 300\n"
        "  pcflow train my_scan.ply --out runs/scan --max-seconds 600 --resume"
    )
    parser.add_argument("data", nargs="?", help="a mesh, a cloud file or a folder of them; by default the embedded cow")
    add_data_options(parser)
    points = parser.add_argument_group("points")
    points.add_argument(
        "--split",
        help=f"train, val, test, or {ALL}: which clouds (train, where there are several splits)",
    )
    points.add_argument(
        "--num-points",
        type=whole(1),
        help=f"points drawn from each mesh ({POINTS_OF_ONE:,} for one shape, {POINTS_OF_MANY:,} for each of many), and "
        f"the most of each cloud (all of one shape, {POINTS_OF_MANY:,} of each of many); none is taken twice",
    )
    points.add_argument(
        "--noise",
        type=_noise,
        help="standard deviation of the noise that thickens a surface: auto, which suits the spacing of the points, or "
        "a share of half of the longest side of the data's bounding box (auto)",
    )
    points.add_argument(
        "--categories",
        action="store_true",
        help="a class for each category of a folder, or of a file that says some, whose number the model is given",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        choices=("auto", "flow", "vae"),
        default="auto",
        help="one density of all points, or a model of many shapes (%(default)s, by the number of clouds)",
    )
    model.add_argument("--preset", default="default", help="shape of a vae: default, nice, realnvp, cif, dpf, ...")
    model.add_argument("--base", help="the noise of the flow: normal, conditional, or mixture")
    model.add_argument("--num-components", type=whole(1), help="number of Gaussians of --base mixture")
    model.add_argument("--num-couplings", type=whole(0), help="number of coupling layers")
    model.add_argument("--hidden-dims", type=whole(1), nargs="+", help="hidden widths (64 64 for a flow)")
    model.add_argument(
        "--coupling",
        nargs="+",
        metavar=("NAME", "OPTION=VALUE"),
        help="what a coupling does to a coordinate: affine, additive, spline, cubic, or a class of --custom with its "
        "options. One shape is by default a mixture under 8 cubic couplings, with --base normal or an option of the "
        "couplings normal noise under 12 affine ones",
    )
    add_custom(model)
    model.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="NAME=VALUE",
        help="any other option of PointCloudFlow or PointCloudVAE, such as latent_dim=32 or decoder.masks=halves; of "
        "the training optimization.grad_clip=5, sampling.encoder_points=256, logging.eval_every=100",
    )
    positive = number("a positive number", lambda value: value > 0)
    training = parser.add_argument_group("training")
    training.add_argument("--max-seconds", type=positive, help="training time (60 if --max-steps is not given either)")
    training.add_argument("--max-steps", type=whole(1), help="number of steps; makes a run repeatable to the last bit")
    training.add_argument("--lr", type=positive, help="peak learning rate (0.01 for a flow, 0.008 for a model)")
    training.add_argument(
        "--batch-size", type=whole(1), help="points per step of a flow (2048), clouds per step of a vae (32)"
    )
    training.add_argument("--seed", type=whole(0), help="of random numbers (0)")
    training.add_argument(
        "--config",
        type=Path,
        metavar="RUN",
        help="begin with the settings of another run, its folder or its config.toml; options go before them",
    )
    add_device(training)
    output = parser.add_argument_group("output")
    output.add_argument("--out", default="runs/flow", help="run folder, a new one unless --resume (%(default)s)")
    output.add_argument("--resume", action="store_true", help="continue the run in --out after an interruption")
    output.add_argument("--up", default="y", help="the axis that stands upright in the pictures (%(default)s)")
    add_json(output)


def check(arguments: argparse.Namespace) -> None:
    """See that the run is new or to be resumed, that there is data, and that options go together."""
    out = Path(arguments.out)
    check_parent(out)
    if os.path.lexists(out) and not out.is_dir():
        raise NotADirectoryError(f"{out} is no folder: name one for the run with --out")
    there = [name for name in FILES_OF_A_RUN if os.path.lexists(out / name)]
    if there and not arguments.resume:
        raise FileExistsError(
            f"{out} already holds a run ({there[0]}): give --resume to continue it, or choose another folder"
        )
    assignments(arguments.set)
    if arguments.data is not None:
        check_exists(arguments.data)
    elif arguments.categories:
        raise ValueError("--categories: the embedded shapes have none: name a folder of data")
    elif arguments.split is not None and arguments.model == "flow":
        raise ValueError("--split: the embedded cow is one shape and has no splits")
    if arguments.model == "flow" and arguments.categories:
        raise ValueError("--categories are classes of a vae, and --model flow is one density of all points")
    if arguments.model == "flow" and arguments.preset != "default":
        raise ValueError(f"--preset {arguments.preset} is a shape of a vae: --model vae")
    if arguments.config is not None:
        check_exists(arguments.config)
        if arguments.preset != "default":
            raise ValueError("--config says the shape of the model: leave --preset out, or --config")


def _noise(text: str) -> str | float:
    return AUTO if text == AUTO else number(f"{AUTO}, or a number, at least 0", lambda value: value >= 0)(text)


class TrainingData(NamedTuple):
    """What `fit` is given: points of one shape (N, D), or clouds, as a tensor (S, N, D), a list or a file.

    With points to take the unit of the noise from, (M, D), of clouds with classes their numbers (S,) and names, and how
    many of the last coordinates are features.
    """

    data: Tensor | list[Tensor] | MappedClouds
    some: Tensor
    of_many: bool
    labels: Tensor | None = None
    categories: tuple[str, ...] = ()
    feature_dim: int = 0


def run(arguments: argparse.Namespace) -> Result:
    """Fit a flow or a model, and print its score."""
    import torch

    from pyro_pcflow import training
    from pyro_pcflow.cli.config import RunSettings
    from pyro_pcflow.data.strays import robust_half_extent
    from pyro_pcflow.models import PRESETS
    from pyro_pcflow.ops.random import seeded
    from pyro_pcflow.plotting.camera import view_matrix
    from pyro_pcflow.training.divergence import TrainingDivergedError
    from pyro_pcflow.training.options import as_device

    out = Path(arguments.out)
    as_device(arguments.device)
    view_matrix(elev=0.0, azim=0.0, up=arguments.up)
    if arguments.preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {arguments.preset!r}")
    config = RunSettings() if arguments.config is None else RunSettings.read(arguments.config)
    _begin_with(config, arguments)
    options = assignments(arguments.set)
    of_training = _training_options(options, arguments.up, config)
    of_flow = _flow_options(arguments)
    data, some, of_many, labels, categories, feature_dim = _load_training_data(arguments)
    if feature_dim:
        of_flow["feature_dim"] = feature_dim
    if categories:
        _name_categories(options, categories, out)
    noise = config.values["noise"] if arguments.noise is None else arguments.noise
    if arguments.noise is not None:
        noise = (
            arguments.noise
            if arguments.noise == AUTO
            else arguments.noise * robust_half_extent(some[:, : some.shape[-1] - feature_dim].numpy())
        )
    max_seconds = arguments.max_seconds
    if max_seconds is None and arguments.max_steps is None:
        max_seconds = 60.0
    # A new process of torch draws its seed at random.
    with seeded(arguments.seed, torch.device("cpu")):
        if config.module_class is None:
            module = _make_module(arguments.preset, options, of_flow, some.shape[-1], of_many)
        else:
            module = _make_again(config, options, of_flow, arguments, of_many)
    if "held_out" in config.values:
        of_training["held_out"] = config.values["held_out"]
    try:
        result = training.fit(
            module,
            data if labels is None else (data, labels),
            max_steps=arguments.max_steps,
            max_seconds=max_seconds,
            batch_size=arguments.batch_size,
            lr=arguments.lr,
            noise=noise,
            seed=arguments.seed,
            out=arguments.out,
            resume=arguments.resume,
            device=arguments.device,
            **of_training,
        )
    except TrainingDivergedError as error:
        raise ValueError(str(error)) from error
    if categories:
        _keep_categories(categories, out)
    if config.fingerprint:
        _compare_data(config, out)
    found: dict[str, Any] = {
        "out": out,
        "model": type(module).__name__,
        "nats_per_point": result.nats_per_point,
        "noise": result.noise,
        "steps": result.steps,
        "seconds": result.seconds,
        "scores": result.scores,
        "categories": categories,
        "files": sorted(path.name for path in out.iterdir() if not path.name.startswith(".")),
    }
    kind = "bound on held-out clouds" if of_many else "held-out points"
    score = "nothing held out"
    if result.nats_per_point is not None:
        within = " ± {scores[standard_error]:.3f}" if "standard_error" in result.scores else ""
        score = "{nats_per_point:.3f}" + within + " nats per point, " + kind
    thickened = ", with noise {noise:.3g}" if result.noise else ""
    lines = Result.of(found, score + thickened + ", after {steps} steps").lines
    return Result(found, [*lines, f"{out}: {', '.join(found['files'])}"])


def _begin_with(config: RunSettings, arguments: argparse.Namespace) -> None:
    """Give options that are not given the values of another run, or their own."""
    from pyro_pcflow.cli.config import CLASSES, LIMITS

    values = config.values
    limits_given = any(vars(arguments)[name] is not None for name in LIMITS)
    for name in ("lr", "batch_size", "seed", *(() if limits_given else LIMITS)):
        if vars(arguments)[name] is None:
            setattr(arguments, name, values.get(name))
    arguments.seed = given(arguments.seed, 0)
    if arguments.noise is None and "noise" not in values:
        arguments.noise = AUTO
    if config.module_class is not None:
        model = CLASSES[config.module_class]
        if arguments.model not in ("auto", model):
            raise ValueError(f"--config is of a {config.module_class}: leave --model {arguments.model} out")
        arguments.model = model


def _make_again(
    config: RunSettings,
    options: dict[str, Any],
    of_flow: dict[str, Any],
    arguments: argparse.Namespace,
    of_many: bool,
) -> nn.Module:
    """The module of another run, but for the options that are given."""
    from pyro_pcflow.cli.config import merged

    with _told("--config"):
        own = merged(options, {"decoder": of_flow} if of_many and of_flow else {} if of_many else of_flow)
        return config.make(own, load_custom(arguments.custom).values())


def _compare_data(config: RunSettings, out: Path) -> None:
    """Say if the data was not that of the run whose settings were taken."""
    from pyro_pcflow.training import toml

    now = toml.read(out / "config.toml").get("data", {})
    if any(now.get(name) != value for name, value in config.fingerprint.items()):
        note("--config: that run had other data, or took other points of it, so that this one did not repeat it")


def _name_categories(options: dict[str, Any], categories: tuple[str, ...], out: Path) -> None:
    """Tell the names of the classes, and give their number to the model."""
    count = options.setdefault("num_classes", len(categories))
    if count != len(categories):
        raise ValueError(f"--set num_classes={count}: the data has {len(categories)} categories, {_listed(categories)}")
    path = out / CATEGORIES
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != [*categories]:
        raise ValueError(f"{path} has other categories than the data, which are {_listed(categories)}")
    note(f"{len(categories)} categories: {_listed(categories)}")


def _listed(categories: tuple[str, ...]) -> str:
    return ", ".join(f"{number} {name}" for number, name in enumerate(categories))


def _keep_categories(categories: tuple[str, ...], out: Path) -> None:
    from pyro_pcflow.ops.files import new_file

    with new_file(out / CATEGORIES, or_same=True) as file:
        file.write(f"{json.dumps(categories)}\n".encode())


def _load_training_data(arguments: argparse.Namespace) -> TrainingData:
    import torch

    from pyro_pcflow import data
    from pyro_pcflow.data.listing import list_entries
    from pyro_pcflow.data.reading import iterate_stored

    if arguments.data is None:
        return _load_embedded(arguments)
    options = folder_options_of(arguments)
    split = choose_split(arguments.data, arguments.split, options=options, default="train")
    if split is None and arguments.model != "flow" and _may_stay(arguments):
        try:
            mapped = data.MappedClouds(arguments.data)
        except data.CloudError:
            pass  # one cloud, or an array that is read whole
        else:
            if arguments.model == "vae" or len(mapped) >= MANY_CLOUDS:
                chosen = torch.linspace(0, len(mapped) - 1, min(len(mapped), CLOUDS_FOR_UNITS)).round().long()
                return TrainingData(mapped, mapped.read(chosen).flatten(end_dim=-2), of_many=True)
    listing = list_entries(Path(arguments.data).expanduser(), split, options)
    listing.warn(stacklevel=1)
    stored = iterate_stored(listing, split)
    few = list(islice(stored, MANY_CLOUDS))
    of_many = arguments.model == "vae" or (arguments.model == "auto" and len(few) == MANY_CLOUDS)
    of_many = of_many or arguments.categories
    clouds, words, feature_dim = _draw(_emptying(few, stored), arguments, of_many)
    points = torch.cat(clouds)
    if not of_many:
        return TrainingData(points, points, of_many, feature_dim=feature_dim)
    if feature_dim:
        raise ValueError(
            "--features: a model of many shapes has one unit for all coordinates, which features do not share: give "
            "--model flow, or leave --features out"
        )
    labels, categories = _numbered(words) if arguments.categories else (None, ())
    of_one_size = len({len(cloud) for cloud in clouds}) == 1
    together = points.view(len(clouds), *clouds[0].shape) if of_one_size else clouds
    return TrainingData(together, points, of_many, labels, categories)


def _may_stay(arguments: argparse.Namespace) -> bool:
    """Whether all of a file is meant as it is, so that it need not be read into memory."""
    selection = selection_of(arguments)
    chosen = (arguments.num_points, selection.columns, selection.features, selection.outliers)
    return Path(arguments.data).suffix == ".npy" and not arguments.categories and chosen == (None,) * len(chosen)


def _numbered(words: list[int | str | None]) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers of classes by their names, in the order of the names."""
    import torch

    there = {word for word in words if word is not None}
    # Numbers of a file stay in their order.
    names = sorted(there, key=lambda word: (isinstance(word, str), word))
    if len(names) < 2:
        raise ValueError(f"--categories: expected two or more, found {', '.join(map(str, names)) or 'none'}")
    places = {name: number for number, name in enumerate(names)}
    return torch.tensor([places[word] for word in words if word is not None]), tuple(map(str, names))


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


def _draw(
    stored: Iterable[StoredCloud], arguments: argparse.Namespace, of_many: bool
) -> tuple[list[Tensor], list[int | str | None], int]:
    """Points of each cloud, none twice, so that held-out points are not trained on; classes; and number of features."""
    import torch

    clouds: list[Tensor] = []
    words: list[int | str | None] = []
    feature_dim = 0
    selection, left_out = selection_of(arguments), LeftOut()
    for cloud in stored:
        most = POINTS_OF_MANY if of_many else POINTS_OF_ONE if cloud.num_points is None else cloud.num_points
        most = given(arguments.num_points, most)
        if arguments.categories and cloud.label is None:
            raise ValueError(f"--categories: {cloud.entry.path} lies in no folder of a category, and says no class")
        words.append(cloud.label)
        drawn = _draw_once(cloud, most, arguments.seed, selection)
        left_out.add(drawn.dropped, drawn.strays)
        points, feature_dim = drawn.joined, len(drawn.feature_names)
        if clouds and points.shape[1] != clouds[0].shape[1]:
            raise ValueError(
                f"{cloud.entry.path}: points of {points.shape[1]} coordinates, but those before have "
                f"{clouds[0].shape[1]}: expected the same for all"
            )
        # The array may be that of a file which must not be written to.
        clouds.append(torch.from_numpy(points.copy()))
    if str(left_out):
        note(str(left_out))
    return clouds, words, feature_dim


def _draw_once(cloud: StoredCloud, most: int, seed: int, selection: Selection) -> DrawnCloud:
    """At most so many points of a cloud, none of them twice; of a mesh, so many."""
    if cloud.num_points is None:
        return cloud.draw(most, seed, selection)
    asked = min(most, cloud.num_points)
    drawn = cloud.draw(asked, seed, selection)
    there = cloud.num_points - drawn.dropped - drawn.strays
    # Others would take the place of those that are left out, a second time.
    return drawn if there >= asked else cloud.draw(there, seed, selection)


def _training_options(options: dict[str, Any], up: str, config: RunSettings) -> dict[str, Any]:
    """Take the options of the training out of those of `--set`."""
    from pyro_pcflow.training import CloudSampling, Logging, Optimization, Pictures

    with _told("--set"):
        return {
            "optimization": Optimization(**{**config.optimization, **options.pop("optimization", {})}),
            "sampling": CloudSampling(**{**config.sampling, **options.pop("sampling", {})}),
            "logging": Logging(**{"pictures": Pictures(up), **config.logging, **options.pop("logging", {})}),
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
