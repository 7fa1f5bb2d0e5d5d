"""`pcflow score`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.shared import ALL, check_new_file, choose_split, given, note, say, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pyro_pcflow.cli.models import SavedModel
    from pyro_pcflow.data.reading import StoredCloud

__all__ = ["add_arguments", "run"]

SUFFIXES_OF_SCORES = (".csv", ".npy")
POINTS_OF_A_MESH = 2048
# Rows of a table that are written at a time.
ROWS_AT_ONCE = 65_536
# What the picture shows.
SHOWN_CLOUDS, SHOWN_POINTS = 12, 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Score clouds under a trained flow or model: one row per point in --out, one row per cloud beside "
        "it (NAME.clouds.csv), and a picture in which outlying points stand out (NAME.png). Log-densities are in "
        "nats, in the data's units. Every point of a cloud file is scored, in the order of the file; a mesh gives "
        "points that are drawn from it."
    )
    parser.add_argument("run", type=Path, help="a run folder, or a model file")
    parser.add_argument("data", help="a cloud file, a mesh or a folder of them")
    parser.add_argument("--out", type=Path, required=True, help=f"new file: {', '.join(SUFFIXES_OF_SCORES)}")
    parser.add_argument(
        "--num-points", type=whole(1), help=f"points drawn from each mesh ({POINTS_OF_A_MESH}); clouds keep theirs"
    )
    parser.add_argument(
        "--split", help=f"train, val or test: only these clouds ({ALL}, with the split as a column of NAME.clouds.csv)"
    )
    parser.add_argument(
        "--label",
        type=whole(0),
        nargs="+",
        help="number of the class of all clouds, or one for each, for a model that has classes",
    )
    add_custom(parser)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")


class Scored(NamedTuple):
    """A cloud with its number, its points (N, D), their log-densities (N,), and that of the cloud."""

    number: int
    stored: StoredCloud
    points: Tensor
    scores: Tensor
    total: float


def run(arguments: argparse.Namespace) -> None:
    """Write the log-density of every point and every cloud, and a picture."""
    from pyro_pcflow.cli.models import load_model
    from pyro_pcflow.ops.files import new_file

    out = arguments.out
    check_new_file(out, SUFFIXES_OF_SCORES)
    by_cloud, picture = out.with_suffix(".clouds.csv"), out.with_suffix(".png")
    model = load_model(arguments.run, arguments.device, arguments.label, arguments.custom)
    split = choose_split(arguments.data, given(arguments.split, ALL), default=None)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Files appear from the last to the first: until the one that was asked for is there, a command that was killed can
    # be repeated.
    with ExitStack() as files:
        points_file = files.enter_context(new_file(out))
        clouds_file = files.enter_context(new_file(by_cloud, or_same=True))
        picture_file = files.enter_context(new_file(picture, or_same=True))
        writer = _NpyScores(points_file) if out.suffix == ".npy" else _CsvScores(points_file)
        clouds_file.write(_row(["cloud", "file", "index", "split", "points", "log_density", "log_density_per_point"]))
        shown: list[tuple[Tensor, Tensor]] = []
        sizes: list[int] = []
        total = 0.0
        for cloud in _score_clouds(model, arguments, split):
            writer.add(cloud)
            stored, size = cloud.stored, len(cloud.points)
            where = [cloud.number, stored.entry.name, stored.index, stored.split or ""]
            clouds_file.write(_row([*where, size, cloud.total, cloud.total / size]))
            if len(shown) < SHOWN_CLOUDS:
                step = -(-size // SHOWN_POINTS)
                shown.append((cloud.points[::step].clone(), cloud.scores[::step].clone()))
            sizes.append(size)
            total += cloud.total
        model.check_labels(len(sizes), arguments.data)
        writer.finish()
        _picture(shown).savefig(picture_file, format="png")
    of_points = str(sizes[0]) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    say(f"{total / sum(sizes):.3f} nats per point over {len(sizes)} clouds of {of_points} points")
    say(f"{out}, {by_cloud}, {picture}")


def _score_clouds(model: SavedModel, arguments: argparse.Namespace, split: str | None) -> Iterator[Scored]:
    """Score one cloud after another: the memory needed is that of the largest."""
    import torch

    from pyro_pcflow.data.listing import list_entries
    from pyro_pcflow.data.reading import iterate_stored

    listing = list_entries(Path(arguments.data).expanduser(), split)
    listing.warn(stacklevel=1)
    any_mesh = False
    for index, stored in enumerate(iterate_stored(listing, split)):
        is_mesh = stored.num_points is None
        any_mesh = any_mesh or is_mesh
        drawn = stored.draw(given(arguments.num_points, POINTS_OF_A_MESH) if is_mesh else None, arguments.seed)
        model.check_dim(drawn.shape[1], str(stored.entry.path))
        if index == 0 and len(model.labels) > 1:
            # One that is known to be too few is told before the work.
            model.check_labels(max(len(model.labels), 1 + stored.remaining), arguments.data)
        # The array may be that of a file which must not be written to.
        points = torch.from_numpy(drawn.copy())
        scores, total = model.score(points, index, arguments.seed)
        yield Scored(index, stored, points, scores, total)
        del stored
    if arguments.num_points is not None and not any_mesh:
        note(f"--num-points {arguments.num_points} is for meshes: every point of {arguments.data} was scored")


class _CsvScores:
    """A table of points with their log-densities."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._dim: int | None = None

    def add(self, cloud: Scored) -> None:
        """Write the rows of a cloud, with as many digits as give the same numbers back."""
        import numpy as np

        dim = cloud.points.shape[1]
        if self._dim is None:
            self._dim = dim
            names = "xyz"[:dim] if dim <= 3 else [f"x{i}" for i in range(dim)]
            self._file.write(_row(["cloud", "point", *names, "log_density"]))
        for start in range(0, len(cloud.points), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            columns = [*cloud.points[some].T.numpy(), cloud.scores[some].numpy()]
            # Of a float, numpy's own text is the shortest that reads back as the same number.
            texts = [np.arange(start, start + len(columns[0])).astype(str), *(column.astype(str) for column in columns)]
            rows = (f"{cloud.number},{','.join(row)}\n" for row in zip(*(text.tolist() for text in texts), strict=True))
            self._file.write("".join(rows).encode())

    def finish(self) -> None:
        """Nothing is left."""


class _NpyScores:
    """The log-densities alone: (S, N), or (total,) one cloud after another if their sizes differ."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._scores: list[Tensor] = []

    def add(self, cloud: Scored) -> None:
        """Keep the scores of a cloud."""
        self._scores.append(cloud.scores)

    def finish(self) -> None:
        """Write them."""
        import torch

        from pyro_pcflow.ops.files import write_npy

        of_one_size = len({len(scores) for scores in self._scores}) == 1
        write_npy(self._file, (torch.stack if of_one_size else torch.cat)(self._scores).numpy())


def _picture(shown: list[tuple[Tensor, Tensor]]) -> Figure:
    from pyro_pcflow.plotting import plot_clouds

    return plot_clouds(
        [points for points, _ in shown],
        colors=[scores for _, scores in shown],
        color_label="log-density, nats",
        size=4.5 if len(shown) == 1 else 2.4,
    )


def _row(cells: list[Any]) -> bytes:
    """A line of CSV; file names may need quotes, and need not be UTF-8."""
    import csv
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")
