"""`pcflow score`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.data_options import LeftOut, add_data_options, folder_options_of, selection_of
from pyro_pcflow.cli.shared import (
    ALL,
    Result,
    add_device,
    add_json,
    add_seed,
    check_exists,
    check_new_file,
    choose_split,
    given,
    model_file,
    note,
    whole,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from pyro_pcflow.cli.models import SavedModel
    from pyro_pcflow.cli.score_files import Scored
    from pyro_pcflow.data.drawing import DrawnCloud, StoredCloud

__all__ = ["add_arguments", "check", "run"]

SUFFIXES_OF_SCORES = (".csv", ".npy", ".ply", ".las", ".laz")
POINTS_OF_A_MESH = 2048
# Standard deviations of the training data, from which on points are hardly those of such a shape.
FAR = 10.0
# What the picture shows.
SHOWN_CLOUDS, SHOWN_POINTS = 12, 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Score clouds under a trained flow or model: one row per point in --out, one row per cloud beside "
        "it (NAME.clouds.csv), and a picture in which outlying points stand out (NAME.png). Log-densities are in "
        "nats, in the data's units. Every point of a cloud file is scored, in the order of the file, whose own columns "
        "are kept beside the score; a mesh gives points that are drawn from it. PLY and LAS hold the score as a scalar "
        "field, which CloudCompare shows."
    )
    parser.epilog = "example:\n  pcflow score runs/scan another_scan.las --out scored.las"
    parser.add_argument("run", type=Path, help="a run folder, or a model file")
    parser.add_argument("data", help="a cloud file, a mesh or a folder of them")
    add_data_options(parser)
    data = parser.add_argument_group("clouds")
    data.add_argument(
        "--num-points", type=whole(1), help=f"points drawn from each mesh ({POINTS_OF_A_MESH}); clouds keep theirs"
    )
    data.add_argument(
        "--split", help=f"train, val or test: only these clouds ({ALL}, with the split as a column of NAME.clouds.csv)"
    )
    add_seed(data)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--label",
        type=whole(0),
        nargs="+",
        help="number of the class of all clouds, or one for each, for a model that has classes",
    )
    add_custom(model)
    add_device(model)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, help=f"new file: {', '.join(SUFFIXES_OF_SCORES)}")
    add_json(output)


def check(arguments: argparse.Namespace) -> None:
    """See that the output is new, and that there are a model and clouds."""
    check_new_file(arguments.out, SUFFIXES_OF_SCORES)
    model_file(arguments.run)
    check_exists(arguments.data)


def run(arguments: argparse.Namespace) -> Result:
    """Write the log-density of every point and every cloud, and a picture."""
    from pyro_pcflow.cli.models import load_model
    from pyro_pcflow.cli.score_files import open_scores, row
    from pyro_pcflow.ops.files import new_file

    out = arguments.out
    by_cloud, picture = out.with_suffix(".clouds.csv"), out.with_suffix(".png")
    model = load_model(arguments.run, arguments.device, arguments.label, arguments.custom)
    split = choose_split(
        arguments.data, given(arguments.split, ALL), default=None, options=folder_options_of(arguments)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Files appear from the last to the first: until the one that was asked for is there, a command that was killed can
    # be repeated.
    with ExitStack() as files:
        points_file = files.enter_context(new_file(out))
        clouds_file = files.enter_context(new_file(by_cloud, or_same=True))
        picture_file = files.enter_context(new_file(picture, or_same=True))
        writer = open_scores(points_file, out.suffix)
        clouds_file.write(row(["cloud", "file", "index", "split", "points", "log_density", "log_density_per_point"]))
        shown: list[tuple[NDArray[Any], NDArray[Any]]] = []
        sizes: list[int] = []
        total = 0.0
        for cloud in _score_clouds(model, arguments, split):
            writer.add(cloud)
            stored, size = cloud.stored, len(cloud.points)
            where = [cloud.number, stored.entry.name, stored.index, stored.split or ""]
            clouds_file.write(row([*where, size, cloud.total, cloud.total / size]))
            if len(shown) < SHOWN_CLOUDS:
                step = -(-size // SHOWN_POINTS)
                shown.append((cloud.points[::step], cloud.scores[::step]))
            sizes.append(size)
            total += cloud.total
        model.check_labels(len(sizes), arguments.data)
        writer.finish()
        _picture(shown).savefig(picture_file, format="png")
    return Result.of(
        {
            "nats_per_point": total / sum(sizes),
            "clouds": len(sizes),
            "points": sum(sizes),
            "points_of_clouds": str(sizes[0]) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}",
            "out": out,
            "by_cloud": by_cloud,
            "picture": picture,
        },
        "{nats_per_point:.3f} nats per point over "
        + ("a cloud of {points} points" if len(sizes) == 1 else "{clouds} clouds of {points_of_clouds} points"),
        "{out}, {by_cloud}, {picture}",
    )


def _score_clouds(model: SavedModel, arguments: argparse.Namespace, split: str | None) -> Iterator[Scored]:
    """Score one cloud after another: the memory needed is that of the largest."""
    import numpy as np
    import torch

    from pyro_pcflow.cli.score_files import Scored
    from pyro_pcflow.data.listing import list_entries
    from pyro_pcflow.data.reading import iterate_stored

    listing = list_entries(Path(arguments.data).expanduser(), split, folder_options_of(arguments))
    listing.warn(stacklevel=1)
    selection, left_out, any_mesh = selection_of(arguments), LeftOut(), False
    for index, stored in enumerate(iterate_stored(listing, split)):
        is_mesh = stored.num_points is None
        any_mesh = any_mesh or is_mesh
        num_points = given(arguments.num_points, POINTS_OF_A_MESH) if is_mesh else None
        drawn = stored.draw(num_points, arguments.seed, selection)
        left_out.add(drawn.dropped, drawn.strays)
        # The array may be that of a file which must not be written to.
        points = torch.from_numpy(drawn.joined.copy())
        model.check_dim(points.shape[1], str(stored.entry.path))
        if index == 0 and len(model.labels) > 1:
            # One that is known to be too few is told before the work.
            model.check_labels(max(len(model.labels), 1 + stored.remaining), arguments.data)
        if (away := model.away(points)) > FAR:
            note(
                f"{stored.entry.path}: its points lie {away:.3g} standard deviations of the training data from its "
                "centre: are they in other units, or in another frame?"
            )
        scores, total = model.score(points, index, arguments.seed)
        rows = np.arange(len(points)) if drawn.rows is None else drawn.rows
        axes, others = _columns(stored, drawn, rows)
        yield Scored(index, stored, points.numpy(), axes, others, rows, scores.numpy(), total)
        del stored, drawn, points, others
    if str(left_out):
        note(str(left_out))
    if arguments.num_points is not None and not any_mesh:
        note(f"--num-points {arguments.num_points} is for meshes: every point of {arguments.data} was scored")


def _columns(
    stored: StoredCloud, drawn: DrawnCloud, rows: NDArray[np.int64]
) -> tuple[tuple[str, ...], dict[str, NDArray[Any]]]:
    """Names of the coordinates and features, and all other columns of the file."""
    from pyro_pcflow.data.shapes import PointTable

    dim = drawn.joined.shape[1]
    axes = (*drawn.names, *drawn.feature_names)
    if not isinstance(stored.source, PointTable) or not stored.source.named or len(axes) != dim:
        axes = tuple("xyz"[:dim]) if dim <= 3 else tuple(f"x{i}" for i in range(dim))
    if not isinstance(stored.source, PointTable):
        return axes, {}
    used = {*drawn.names, *drawn.feature_names}
    return axes, {name: values[rows] for name, values in stored.source.columns.items() if name not in used}


def _picture(shown: list[tuple[NDArray[Any], NDArray[Any]]]) -> Figure:
    import torch

    from pyro_pcflow.plotting import plot_clouds

    return plot_clouds(
        [torch.from_numpy(points) for points, _ in shown],
        colors=[torch.from_numpy(scores) for _, scores in shown],
        color_label="log-density, nats",
        size=4.5 if len(shown) == 1 else 2.4,
    )
