"""The command line: arguments, and calls of the functions that do the work.

Torch and everything that needs it is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_pcflow import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_pcflow.data import MappedClouds
    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.models import PointCloudVAE

__all__ = ["main"]

SUFFIXES_OF_SAMPLES = (".npy", ".npz", ".ply", ".xyz")
SUFFIXES_OF_SCORES = (".csv", ".npy")
# From so many clouds on, each is one of a kind; fewer are pooled into one shape.
MANY_CLOUDS = 16
# Enough clouds of a file to know how large its clouds are.
CLOUDS_FOR_UNITS = 64
POINTS_OF_ONE, POINTS_OF_MANY = 100_000, 2048


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The exit status: 0, or 2 after an error that the user can mend, which is told on standard error.
    """
    parsed = _parser().parse_args(arguments)
    try:
        parsed.command(parsed)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"pcflow: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcflow", description="Normalizing flows over point clouds: exact densities of surfaces."
    )
    parser.add_argument("--version", action="version", version=f"pyro-pcflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_sample(commands)
    _add_score(commands)
    _add_convert(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction) -> None:
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


def _add_sample(commands: argparse._SubParsersAction) -> None:
    sample = commands.add_parser("sample", help="draw clouds from a trained flow or model")
    sample.add_argument("run", type=Path, help="a run folder, or a model file")
    sample.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"new file: {', '.join(SUFFIXES_OF_SAMPLES)} (one cloud for the last two)",
    )
    sample.add_argument("--num-clouds", type=int, default=1, help="(%(default)s)")
    sample.add_argument("--num-points", type=int, default=2048, help="points a cloud (%(default)s)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--device", default="auto")
    sample.set_defaults(command=_sample)


def _add_score(commands: argparse._SubParsersAction) -> None:
    score = commands.add_parser(
        "score",
        help="log-density of every point and every cloud",
        description="Score clouds under a trained flow or model: one row a point in --out, one row a cloud beside it "
        "(NAME.clouds.csv), and a picture in which outlying points stand out (NAME.png). Log-densities are in "
        "nats, in the data's units.",
    )
    score.add_argument("run", type=Path, help="a run folder, or a model file")
    score.add_argument("data", help="a cloud file, a mesh or a folder of them")
    score.add_argument("--out", type=Path, required=True, help=f"new file: {', '.join(SUFFIXES_OF_SCORES)}")
    score.add_argument("--num-points", type=int, default=2048, help="points taken from each cloud (%(default)s)")
    score.add_argument("--seed", type=int, default=0)
    score.add_argument("--device", default="auto")
    score.set_defaults(command=_score)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    convert = commands.add_parser(
        "convert",
        help="gather clouds in one file that need not fit in memory",
        description="Write clouds of one size to a new npy file, one by one, so that they need not fit in memory; "
        "pcf.data.MappedClouds opens it without reading it whole.",
    )
    convert.add_argument("data", help="a mesh, a cloud file or a folder of them")
    convert.add_argument("--out", type=Path, required=True, help="new file: .npy")
    convert.add_argument("--num-points", type=int, required=True, help="points taken from each cloud")
    convert.add_argument("--seed", type=int, default=0)
    convert.set_defaults(command=_convert)


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from pyro_pcflow import training
    from pyro_pcflow.data import MappedClouds, half_side

    clouds, of_many = _load_training_data(arguments)
    some_of_them = torch.linspace(0, len(clouds) - 1, min(len(clouds), CLOUDS_FOR_UNITS)).round().long()
    some = clouds.read(some_of_them) if isinstance(clouds, MappedClouds) else clouds
    max_seconds = arguments.max_seconds
    if max_seconds is None and arguments.max_steps is None:
        max_seconds = 60.0
    make = _make_vae if of_many else _make_flow
    result = training.fit(
        make(arguments, some.shape[-1]),
        clouds,
        max_steps=arguments.max_steps,
        max_seconds=max_seconds,
        batch_size=arguments.batch_size,
        lr=_given(arguments.lr, _learning_rate(arguments, of_many)),
        noise=arguments.noise * half_side(some),
        seed=arguments.seed,
        out=arguments.out,
        resume=arguments.resume,
        pictures={"up": arguments.up},
        device=arguments.device,
    )
    kind = "bound on held-out clouds" if of_many else "held-out points"
    print(f"{result.nats_per_point:.3f} nats per point, {kind}, after {result.steps} steps")
    print(f"{arguments.out}: {', '.join(sorted(path.name for path in Path(arguments.out).iterdir()))}")


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
            return data.load_example("body", _given(arguments.num_points, POINTS_OF_MANY), seed=arguments.seed), True
        return data.load_example("spot", _given(arguments.num_points, POINTS_OF_ONE), seed=arguments.seed), False
    if arguments.num_points is None and Path(arguments.data).suffix == ".npy" and arguments.model != "flow":
        try:
            mapped = data.MappedClouds(arguments.data)
        except data.CloudError:
            pass  # one cloud, or an array that load_clouds knows better
        else:
            if arguments.model == "vae" or len(mapped) >= MANY_CLOUDS:
                return mapped, True
    clouds = data.load_clouds(arguments.data, _given(arguments.num_points, POINTS_OF_MANY), seed=arguments.seed)
    of_many = arguments.model == "vae" or (arguments.model == "auto" and len(clouds) >= MANY_CLOUDS)
    if not of_many and arguments.num_points is None:
        clouds = data.load_clouds(arguments.data, POINTS_OF_ONE, seed=arguments.seed)
    return clouds, of_many


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _make_flow(arguments: argparse.Namespace, point_dim: int) -> PointCloudFlow:
    from pyro_pcflow.distributions import PointCloudFlow

    if arguments.preset != "default":
        raise ValueError(f"--preset {arguments.preset} is a shape of a vae, but the data is one shape: --model vae")
    return PointCloudFlow(
        point_dim,
        num_couplings=_given(arguments.couplings, 12),
        hidden_dims=_given(arguments.hidden, [64, 64]),
    )


def _make_vae(arguments: argparse.Namespace, point_dim: int) -> PointCloudVAE:
    from pyro_pcflow.models import preset

    given = {"num_couplings": arguments.couplings, "hidden_dims": arguments.hidden}
    decoder = {name: value for name, value in given.items() if value is not None}
    return preset(arguments.preset, point_dim, **({"decoder": decoder} if decoder else {}))


def _sample(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.data import save_clouds
    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.training.seeding import seeded

    _check_new(arguments.out, SUFFIXES_OF_SAMPLES)
    model = _load_model(arguments.run, arguments.device)
    with seeded(arguments.seed, next(model.parameters()).device):
        if isinstance(model, PointCloudFlow):
            clouds = model.cloud(num_points=arguments.num_points).sample((arguments.num_clouds,))
        else:
            clouds = model.sample(arguments.num_clouds, arguments.num_points)
    save_clouds(clouds.cpu(), arguments.out)
    print(f"{arguments.out}: {arguments.num_clouds} clouds of {arguments.num_points} points")


def _score(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.data import load_clouds
    from pyro_pcflow.plotting import plot_clouds, save_figure

    _check_new(arguments.out, SUFFIXES_OF_SCORES)
    by_cloud, picture = arguments.out.with_suffix(".clouds.csv"), arguments.out.with_suffix(".png")
    for path in (by_cloud, picture):
        _check_new(path, (path.suffix,))
    model = _load_model(arguments.run, arguments.device)
    clouds = load_clouds(arguments.data, arguments.num_points, seed=arguments.seed)
    scores, totals = _log_densities(model, clouds, arguments.seed)
    _write_scores(clouds, scores, arguments.out)
    _write_table(
        by_cloud,
        "cloud,points,log_density,log_density_per_point",
        ([i, clouds.shape[1], total, total / clouds.shape[1]] for i, total in enumerate(totals.tolist())),
    )
    shown = slice(0, 12)
    figure = plot_clouds(
        clouds[shown], colors=scores[shown], color_label="log-density, nats", size=4.5 if len(clouds) == 1 else 2.4
    )
    save_figure(figure, picture)
    mean = totals.sum().item() / scores.numel()
    print(f"{mean:.3f} nats per point over {len(clouds)} clouds of {clouds.shape[1]} points")
    print(f"{arguments.out}, {by_cloud}, {picture}")


def _convert(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.data import MappedClouds, convert_clouds

    path = convert_clouds(arguments.data, arguments.out, arguments.num_points, seed=arguments.seed)
    num_clouds, num_points, dim = MappedClouds(path).shape
    print(f"{path}: {num_clouds} clouds of {num_points} points in {dim} dimensions")


def _log_densities(model: PointCloudFlow | PointCloudVAE, clouds: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Log-density of every point, ``(S, N)``, and of every cloud, ``(S,)``, in pieces that bound the memory.

    Under a model of many clouds, those of points are given the cloud's latent, and those of clouds are bounds.
    """
    import torch

    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.training.seeding import seeded

    device = next(model.parameters()).device
    with torch.no_grad(), seeded(seed, device):
        if isinstance(model, PointCloudFlow):
            points = clouds.reshape(-1, clouds.shape[-1])
            parts = [model.log_prob(piece.to(device)).cpu() for piece in points.split(65_536)]
            scores = torch.cat(parts).reshape(clouds.shape[:-1])
            return scores, scores.sum(-1)
        of_points, of_clouds = [], []
        for piece in clouds.split(max(1, 65_536 // clouds.shape[1])):
            piece = piece.to(device)
            context = model.context_of(model.encode(piece).mean)
            of_points.append(model.decoder.log_prob(piece, context.unsqueeze(-2)).cpu())
            of_clouds.append(model.log_prob(piece).cpu())
        return torch.cat(of_points), torch.cat(of_clouds)


def _write_scores(clouds: Tensor, scores: Tensor, path: Path) -> None:
    import numpy as np

    if path.suffix == ".npy":
        np.save(path, scores.numpy())
        return
    names = "xyz" if clouds.shape[-1] <= 3 else [f"x{i}" for i in range(clouds.shape[-1])]
    header = ",".join(["cloud", "point", *names[: clouds.shape[-1]], "log_density"])
    rows = (
        [i, j, *point, score]
        for i, (cloud, row) in enumerate(zip(clouds.tolist(), scores.tolist(), strict=True))
        for j, (point, score) in enumerate(zip(cloud, row, strict=True))
    )
    _write_table(path, header, rows)


def _write_table(path: Path, header: str, rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(header + "\n")
        for row in rows:  # type: ignore[attr-defined]
            file.write(",".join(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row) + "\n")


def _load_model(run: Path, device: str) -> PointCloudFlow | PointCloudVAE:
    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.models import PointCloudVAE
    from pyro_pcflow.serialization import load
    from pyro_pcflow.training.settings import as_device

    path = run / "model.pt" if run.is_dir() else run
    model = load(path, device=as_device(device))
    if not isinstance(model, PointCloudFlow | PointCloudVAE):
        raise ValueError(f"{path} holds a {type(model).__name__}: expected a PointCloudFlow or a PointCloudVAE")
    return model


def _check_new(path: Path, suffixes: Sequence[str]) -> None:
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    if path.exists():
        raise FileExistsError(f"{path} exists already and is not overwritten: name another file")
