"""`pcflow evaluate`."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.data_options import add_data_options, folder_options_of, loading_options
from pyro_pcflow.cli.shared import (
    ALL,
    Result,
    add_device,
    add_json,
    add_seed,
    check_exists,
    check_parent,
    choose_split,
    given,
    model_file,
    number,
    table,
    whole,
)

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
    parser.epilog = "example:\n  pcflow evaluate runs/kind --reference kind.npz --split test --train kind.npz"
    parser.add_argument(
        "samples",
        type=Path,
        metavar="RUN_OR_SAMPLES",
        help="a run folder or model file, which is drawn from; or a npy or npz file of clouds, (S, N, D) or "
        "(draws, S, N, D), in npz as the array points or the only one",
    )
    parser.add_argument("--reference", required=True, help="held-out clouds: a file or a folder of them")
    add_data_options(parser)
    compared = parser.add_argument_group("what is compared")
    compared.add_argument(
        "--split",
        help=f"train, val, test, or {ALL}: which clouds of --reference (test, where there are several splits); of "
        "--train it is always train, where there are several",
    )
    compared.add_argument("--train", help="training clouds, for the same metrics with them in place of the samples")
    compared.add_argument("--num-points", type=whole(1), default=2048, help="points of each cloud (%(default)s)")
    compared.add_argument(
        "--num-clouds", type=whole(2), help="samples and references (as many as there are references)"
    )
    compared.add_argument(
        "--draws", type=whole(1), help=f"sets of samples ({DRAWS_OF_A_MODEL} of a model, otherwise those in the file)"
    )
    compared.add_argument(
        "--label",
        type=whole(0),
        nargs="+",
        help="number of the class of all references and samples, or one for each reference, which samples have in "
        "turn, for a model that has classes",
    )
    add_seed(compared)
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--distance",
        nargs="+",
        default=["chamfer"],
        help="chamfer, hausdorff, emd (exact and slow), approximate_emd (chamfer)",
    )
    metrics.add_argument(
        "--normalization",
        default="none",
        help="none, references, per_cloud or per_cloud_box, before clouds are compared (%(default)s)",
    )
    metrics.add_argument(
        "--resolution", type=whole(1), default=28, help="cells of the JSD's grid along each axis (%(default)s)"
    )
    metrics.add_argument(
        "--num-particles",
        type=whole(0),
        default=64,
        help="of the bound of a model of many clouds, 0 for none (%(default)s)",
    )
    metrics.add_argument("--cache", type=Path, help="keep finished distances here, to continue after an interruption")
    model = parser.add_argument_group("model")
    add_custom(model)
    add_device(model)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="new folder (evaluation/ and the name of RUN_OR_SAMPLES)")
    output.add_argument("--name", help="of the samples in the report (the name of their file)")
    output.add_argument("--units", default="the data's units", help="of coordinates, for the report")
    output.add_argument("--up", default="y", help="the axis that stands upright in the picture (%(default)s)")
    output.add_argument(
        "--azim",
        type=number("a number of degrees", lambda value: True),
        default=215.0,
        help="degrees of its camera around that axis (%(default)s)",
    )
    add_json(output)


def check(arguments: argparse.Namespace) -> None:
    """See that the output is new, that there are samples and data, and that options go together."""
    from pyro_pcflow.ops.files import check_new

    out = _out(arguments)
    check_new(out)
    check_parent(out)
    if _is_array(arguments):
        check_exists(arguments.samples)
        if arguments.label is not None:
            raise ValueError(f"--label is for a model that has classes, but {arguments.samples} holds samples")
    else:
        _check_suffix(arguments.samples)
        model_file(arguments.samples)
    for path in (arguments.reference, arguments.train):
        if path is not None:
            check_exists(path)


def _out(arguments: argparse.Namespace) -> Path:
    return given(arguments.out, Path("evaluation") / arguments.samples.resolve().stem)


def _is_array(arguments: argparse.Namespace) -> bool:
    return arguments.samples.suffix in SUFFIXES_OF_ARRAYS


def _check_suffix(path: Path) -> None:
    if path.is_file() and path.suffix not in SUFFIXES_OF_MODELS:
        raise ValueError(
            f"{path}: expected a run folder, a model file ({', '.join(SUFFIXES_OF_MODELS)}), or samples "
            f"({', '.join(SUFFIXES_OF_ARRAYS)})"
        )


def run(arguments: argparse.Namespace) -> Result:
    """Write a report with its picture, and print its metrics."""
    from pyro_pcflow.cli.sheet import neighbour_sheet
    from pyro_pcflow.data.reading import find_splits
    from pyro_pcflow.metrics import DataDescription, evaluate
    from pyro_pcflow.ops.files import new_file, new_folder
    from pyro_pcflow.ops.reading import printable
    from pyro_pcflow.plotting import save_figure
    from pyro_pcflow.plotting.camera import view_matrix
    from pyro_pcflow.training.options import as_device

    stem = printable(arguments.samples.resolve().stem)
    out = _out(arguments)
    view_matrix(elev=0.0, azim=arguments.azim, up=arguments.up)
    _check_choices(arguments)
    device = as_device(arguments.device)
    model = None if _is_array(arguments) else _load_sampler(arguments)
    samples = _read_samples(arguments.samples) if model is None else model.sample
    options = folder_options_of(arguments)
    split = choose_split(arguments.reference, arguments.split, options=options, default="test")
    references = _load_held_out(arguments.reference, split, arguments)
    train = None
    if arguments.train is not None:
        of_train = "train" if "train" in find_splits(arguments.train, options) else None
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
    files = sorted(path.name for path in out.iterdir())
    values = {"out": out, "files": files, "report": json.loads(report.to_json())}
    return Result(values, [*_lines(report), f"{out}: {', '.join(files)}"])


def _check_choices(arguments: argparse.Namespace) -> None:
    """Refuse an unknown name before anything is loaded."""
    from pyro_pcflow.metrics.distances import DISTANCES
    from pyro_pcflow.metrics.pairs import check_choice
    from pyro_pcflow.metrics.samples import Normalization

    for distance in arguments.distance:
        check_choice(distance, tuple(DISTANCES), "--distance")
    check_choice(arguments.normalization, get_args(Normalization), "--normalization")


def _load_sampler(arguments: argparse.Namespace) -> SavedModel:
    from pyro_pcflow.cli.models import load_model

    return load_model(arguments.samples, arguments.device, arguments.label, arguments.custom)


def _load_held_out(path: str, split: str | None, arguments: argparse.Namespace) -> Tensor:
    """Clouds to compare with, without repeated points, which would count as a difference."""
    from pyro_pcflow.data import load_clouds

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*points repeat", category=UserWarning)
        try:
            return load_clouds(
                path, arguments.num_points, seed=arguments.seed, split=split, **loading_options(arguments)
            )
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


def _lines(report: Report) -> list[str]:
    """The table of metrics, in columns, and what else there is."""
    from pyro_pcflow.metrics.comparison import metric_rows

    rows = metric_rows(report)
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    total = report.protocol.num_clouds * len(report.failed)
    lines = [*table([[row[column] for column in used] for row in rows])]
    lines.append(f"failed samples: {sum(report.failed)} of {total}")
    if report.likelihood is not None:
        lines.append(
            f"{report.likelihood.nats_per_point:.3f} nats per point of held-out clouds ({report.likelihood.kind})"
        )
    return lines
