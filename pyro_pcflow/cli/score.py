"""`pcflow score`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pyro_pcflow.cli.shared import check_new, load_model

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.models import PointCloudVAE

__all__ = ["add_score"]

SUFFIXES_OF_SCORES = (".csv", ".npy")


def add_score(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
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


def _score(arguments: argparse.Namespace) -> None:
    from pyro_pcflow.data import load_clouds
    from pyro_pcflow.ops.files import new_file
    from pyro_pcflow.plotting import plot_clouds

    check_new(arguments.out, SUFFIXES_OF_SCORES)
    by_cloud, picture = arguments.out.with_suffix(".clouds.csv"), arguments.out.with_suffix(".png")
    model = load_model(arguments.run, arguments.device)
    clouds = load_clouds(arguments.data, arguments.num_points, seed=arguments.seed)
    scores, totals = _log_densities(model, clouds, arguments.seed)
    shown = slice(0, 12)
    figure = plot_clouds(
        clouds[shown], colors=scores[shown], color_label="log-density, nats", size=4.5 if len(clouds) == 1 else 2.4
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    # The file that was asked for comes last: until it is there, a command that was killed can be repeated.
    with new_file(picture, or_same=True) as file:
        figure.savefig(file, format="png")
    with new_file(by_cloud, or_same=True) as file:
        _write_table(
            file,
            "cloud,points,log_density,log_density_per_point",
            ([i, clouds.shape[1], total, total / clouds.shape[1]] for i, total in enumerate(totals.tolist())),
        )
    with new_file(arguments.out) as file:
        _write_scores(clouds, scores, file, arguments.out.suffix)
    mean = totals.sum().item() / scores.numel()
    print(f"{mean:.3f} nats per point over {len(clouds)} clouds of {clouds.shape[1]} points")
    print(f"{arguments.out}, {by_cloud}, {picture}")


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


def _write_scores(clouds: Tensor, scores: Tensor, file: BinaryIO, suffix: str) -> None:
    from pyro_pcflow.ops.files import write_npy

    if suffix == ".npy":
        write_npy(file, scores.numpy())
        return
    names = "xyz" if clouds.shape[-1] <= 3 else [f"x{i}" for i in range(clouds.shape[-1])]
    header = ",".join(["cloud", "point", *names[: clouds.shape[-1]], "log_density"])
    rows = (
        [i, j, *point, score]
        for i, (cloud, row) in enumerate(zip(clouds.tolist(), scores.tolist(), strict=True))
        for j, (point, score) in enumerate(zip(cloud, row, strict=True))
    )
    _write_table(file, header, rows)


def _write_table(file: BinaryIO, header: str, rows: Iterable[list[float]]) -> None:
    file.write(f"{header}\n".encode())
    for row in rows:
        text = ",".join(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row)
        file.write(f"{text}\n".encode())
