"""`pcflow evaluate`."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.shared import ALL, check_parent, choose_split, given, number, say, whole

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pyro_pcflow.cli.models import SavedModel
    from pyro_pcflow.metrics import Report

__all__ = ["add_arguments", "run"]

SUFFIXES_OF_MODELS, SUFFIXES_OF_ARRAYS = (".pt",), (".npy", ".npz")
DRAWS_OF_A_MODEL = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Compare samples of a run, or of any other model, with as many held-out clouds: 1-NNA with both "
        "halves, coverage, MMD, JSD, and for a run the held-out likelihood. A new folder gets report.json, "
        "report.md and sheet.png."
    )
    parser.add_argument(
        "samples",
        type=Path,
        metavar="RUN_OR_SAMPLES",
        help="a run folder or model file, which is drawn from; or a npy or npz file of clouds, (S, N, D) or "
        "(draws, S, N, D), in npz as the array points or the only one",
    )
    parser.add_argument("--reference", required=True, help="held-out clouds: a file or a folder of them")
    parser.add_argument("--out", type=Path, help="new folder (evaluation/ and the name of RUN_OR_SAMPLES)")
    parser.add_argument(
        "--split",
        help=f"train, val, test, or {ALL}: which clouds of --reference (test, where there are several splits); of "
        "--train it is always train, where there are several",
    )
    parser.add_argument("--train", help="training clouds, for the same metrics with them in place of the samples")
    parser.add_argument("--num-points", type=whole(1), default=2048, help="points of each cloud (%(default)s)")
    parser.add_argument("--num-clouds", type=whole(2), help="samples and references (as many as there are references)")
    parser.add_argument(
        "--draws", type=whole(1), help=f"sets of samples ({DRAWS_OF_A_MODEL} of a model, otherwise those in the file)"
    )
    parser.add_argument(
        "--distance",
        nargs="+",
        default=["chamfer"],
        help="chamfer, hausdorff, emd (exact and slow), approximate_emd (%(default)s)",
    )
    parser.add_argument(
        "--normalization",
        default="none",
        help="none, references, per_cloud or per_cloud_box, before clouds are compared (%(default)s)",
    )
    parser.add_argument(
        "--resolution", type=whole(1), default=28, help="cells of the JSD's grid along each axis (%(default)s)"
    )
    parser.add_argument(
        "--num-particles",
        type=whole(0),
        default=64,
        help="of the bound of a model of many clouds, 0 for none (%(default)s)",
    )
    parser.add_argument(
        "--label",
        type=whole(0),
        nargs="+",
        help="number of the class of all references and samples, or one for each reference, which samples have in "
        "turn, for a model that has classes",
    )
    parser.add_argument("--name", help="of the samples in the report (the name of their file)")
    parser.add_argument("--units", default="the data's units", help="of coordinates, for the report")
    parser.add_argument("--cache", type=Path, help="keep finished distances here, to continue after an interruption")
    add_custom(parser)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--up", default="y", help="the axis that stands upright in the picture (%(default)s)")
    parser.add_argument(
        "--azim",
        type=number("a number of degrees", lambda value: True),
        default=215.0,
        help="degrees of its camera around that axis (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Write a report with its picture, and print its metrics."""
    from pyro_pcflow.cli.sheet import neighbour_sheet
    from pyro_pcflow.data.reading import find_splits
    from pyro_pcflow.metrics import DataDescription, evaluate
    from pyro_pcflow.ops.files import check_new, new_file, new_folder
    from pyro_pcflow.ops.reading import printable
    from pyro_pcflow.plotting import save_figure
    from pyro_pcflow.plotting.camera import view_matrix
    from pyro_pcflow.training.options import as_device

    stem = printable(arguments.samples.resolve().stem)
    out = given(arguments.out, Path("evaluation") / arguments.samples.resolve().stem)
    check_new(out)
    check_parent(out)
    view_matrix(elev=0.0, azim=arguments.azim, up=arguments.up)
    _check_choices(arguments)
    device = as_device(arguments.device)
    is_array = arguments.samples.suffix in SUFFIXES_OF_ARRAYS
    if is_array and arguments.label is not None:
        raise ValueError(f"--label is for a model that has classes, but {arguments.samples} holds samples")
    model = None if is_array else _load_sampler(arguments)
    samples = _read_samples(arguments.samples) if model is None else model.sample
    split = choose_split(arguments.reference, arguments.split, default="test")
    references = _load_held_out(arguments.reference, split, arguments)
    train = None
    if arguments.train is not None:
        of_train = "train" if "train" in find_splits(arguments.train) else None
        train = _load_held_out(arguments.train, of_train, arguments)
    likelihood = None
    if model is not None:
        model.check_dim(references.shape[-1], arguments.reference)
        model.check_labels(len(references), arguments.reference)
        likelihood = model.likelihood(references, arguments.num_particles, arguments.seed, arguments.units)
    report = evaluate(
        samples,
        references.to(device),
        train=train,
        distances=arguments.distance,
        draws=arguments.draws if model is None else given(arguments.draws, DRAWS_OF_A_MODEL),
        num_clouds=arguments.num_clouds,
        num_points=arguments.num_points,
        normalization=arguments.normalization,
        grid=arguments.resolution,
        seed=arguments.seed,
        name=given(arguments.name, stem),
        data=DataDescription(printable(Path(arguments.reference).stem), given(split, ""), arguments.units),
        likelihood=likelihood,
        progress=None,
        path=arguments.cache,
    )
    assert report.neighbours is not None
    with new_folder(out) as folder:
        report.to_json(folder / "report.json")
        with new_file(folder / "report.md") as file:
            file.write(f"{report.to_markdown()}\n![Samples and references](sheet.png)\n".encode())
        save_figure(neighbour_sheet(report.neighbours, up=arguments.up, azim=arguments.azim), folder / "sheet.png")
    _show(report)
    say(f"{out}: report.json, report.md, sheet.png")


def _check_choices(arguments: argparse.Namespace) -> None:
    """Refuse an unknown name before anything is loaded."""
    from pyro_pcflow.metrics.distances import DISTANCES
    from pyro_pcflow.metrics.pairs import check_choice
    from pyro_pcflow.metrics.samples import Normalization

    for distance in arguments.distance:
        check_choice(distance, tuple(DISTANCES), "distances")
    check_choice(arguments.normalization, get_args(Normalization), "normalization")


def _load_sampler(arguments: argparse.Namespace) -> SavedModel:
    from pyro_pcflow.cli.models import load_model

    path = arguments.samples
    if path.is_file() and path.suffix not in SUFFIXES_OF_MODELS:
        raise ValueError(
            f"{path}: expected a run folder, a model file ({', '.join(SUFFIXES_OF_MODELS)}), or samples "
            f"({', '.join(SUFFIXES_OF_ARRAYS)})"
        )
    return load_model(path, arguments.device, arguments.label, arguments.custom)


def _load_held_out(path: str, split: str | None, arguments: argparse.Namespace) -> Tensor:
    """Clouds to compare with, without repeated points, which would count as a difference."""
    from pyro_pcflow.data import load_clouds

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*points repeat", category=UserWarning)
        try:
            return load_clouds(path, arguments.num_points, seed=arguments.seed, split=split)
        except UserWarning as warning:
            raise ValueError(f"{warning}, which would change distances: give a lower --num-points") from warning


def _read_samples(path: Path) -> np.ndarray:
    """Samples of any model, which may have NaN, unlike data."""
    import numpy as np

    from pyro_pcflow.ops.array_files import read_array
    from pyro_pcflow.ops.reading import printable

    array = read_array(path)
    if array.dtype.kind not in "fiu" or array.ndim not in (3, 4):
        raise ValueError(
            f"{printable(path)}: expected numbers of shape (S, N, D) or (draws, S, N, D), got {array.dtype} "
            f"{array.shape}"
        )
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _show(report: Report) -> None:
    """Print the table of metrics, in columns."""
    from pyro_pcflow.metrics.comparison import metric_rows

    rows = metric_rows(report)
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    for row in rows:
        say("  ".join(row[column].ljust(widths[column]) for column in used).rstrip())
    total = report.protocol.num_clouds * len(report.failed)
    say(f"failed samples: {sum(report.failed)} of {total}")
    if report.likelihood is not None:
        say(f"{report.likelihood.nats_per_point:.3f} nats per point of held-out clouds ({report.likelihood.kind})")
