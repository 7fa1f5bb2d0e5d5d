"""`pcflow complete`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.data_options import add_data_options
from pyro_pcflow.cli.sample import SUFFIXES_OF_SAMPLES
from pyro_pcflow.cli.shared import (
    Result,
    add_device,
    add_json,
    add_seed,
    add_sensor,
    check_exists,
    check_new_file,
    check_sensor,
    model_file,
    whole,
)

if TYPE_CHECKING:
    from pyro_pcflow.cli.models import SavedModel
    from pyro_pcflow.infer import Completer

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Complete a partial scan by a model of many shapes: whole clouds, in which the points of the scan are kept, in "
        "--out, and how they were found beside it (NAME.json)."
    )
    parser.epilog = "example:\n  pcflow complete runs/kind partial.ply --out whole.npz --num-samples 16"
    parser.add_argument("model", type=Path, help="a run folder, or a model file, of a model of many shapes")
    parser.add_argument("scan", help="a file of one cloud; a mesh with --scan-points")
    add_data_options(parser)
    scan = parser.add_argument_group("scan")
    scan.add_argument("--scan-points", type=whole(1), help="points drawn from the scan (all of them)")
    add_sensor(parser)
    inference = parser.add_argument_group("inference")
    inference.add_argument("--num-points", type=whole(1), default=2048, help="points of a whole cloud (%(default)s)")
    inference.add_argument("--num-samples", type=whole(1), default=16, help="whole clouds (%(default)s)")
    inference.add_argument(
        "--method", choices=["auto", "completer", "hmc", "svi", "nuts"], default="auto", help="(%(default)s)"
    )
    inference.add_argument("--proposal", type=Path, help="a run folder, or a file, of a completer of the model")
    add_seed(inference)
    model = parser.add_argument_group("model")
    model.add_argument("--label", type=whole(0), help="number of the class, for a model that has classes")
    add_custom(model)
    add_device(model)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"new file: {', '.join(SUFFIXES_OF_SAMPLES)} (with --num-samples 1 for the last two)",
    )
    add_json(output)


def check(arguments: argparse.Namespace) -> None:
    """See that the output is new, and that there are a model and a scan."""
    check_new_file(arguments.out, SUFFIXES_OF_SAMPLES)
    check_new_file(arguments.out.with_suffix(".json"), [".json"])
    check_sensor(arguments)
    model_file(arguments.model)
    if arguments.proposal is not None:
        model_file(arguments.proposal)
    check_exists(arguments.scan)


def run(arguments: argparse.Namespace) -> Result:
    """Write whole clouds, and how they were found."""
    import torch

    from pyro_pcflow.cli.models import CloudModel, load_model
    from pyro_pcflow.cli.scans import half_space, read_scan, write_json
    from pyro_pcflow.data.saving import check_format, save_clouds
    from pyro_pcflow.infer import complete
    from pyro_pcflow.ops.random import seeded

    report = arguments.out.with_suffix(".json")
    labels = None if arguments.label is None else [arguments.label]
    model = load_model(arguments.model, arguments.device, labels, arguments.custom)
    if not isinstance(model, CloudModel):
        raise ValueError(
            f"{arguments.model} holds a {type(model.module).__name__}, one shape, of which nothing is unknown: "
            "complete takes a model of many shapes"
        )
    check_format(arguments.out, arguments.num_samples, model.point_dim)
    scan = read_scan(arguments, model)
    proposal = "auto" if arguments.proposal is None else _completer(arguments, model)
    sensor = half_space(arguments, scan)
    with seeded(arguments.seed, model.device):
        found = complete(
            model.module,
            scan.unsqueeze(0),
            arguments.num_points,
            labels=None if labels is None else torch.tensor(labels, device=model.device),
            observe=sensor,
            fill=None if sensor is None else lambda point: sensor(point).complement(),
            method=arguments.method,
            proposal=proposal,
            num_samples=arguments.num_samples,
        )
    written = {"method": found.method, "observed_points": len(scan), "diagnostics": found.diagnostics}
    write_json({**written, "latents": {name: draws.squeeze(1) for name, draws in found.latents.items()}}, report)
    save_clouds(found.clouds[:, 0], arguments.out)
    values = {"out": arguments.out, "report": report, "num_clouds": arguments.num_samples}
    return Result.of(
        {**values, "num_points": arguments.num_points, "observed_points": len(scan), "method": found.method},
        "{num_clouds} clouds of {num_points} points, {observed_points} of them observed",
        "{out}, {report}",
    )


def _completer(arguments: argparse.Namespace, model: SavedModel) -> Completer:
    """The completer of `--proposal`, of the same model.

    Raises:
        ValueError: another kind of module, or a completer of another model.
        OSError: nothing to read there.
    """
    from pyro_pcflow.cli.custom import load_custom
    from pyro_pcflow.infer import Completer
    from pyro_pcflow.serialization import load

    path = model_file(arguments.proposal)
    module = load(path, device=model.device, custom=load_custom(arguments.custom).values())
    if not isinstance(module, Completer):
        raise ValueError(f"{path} holds a {type(module).__name__}: --proposal takes a completer, as pcf.save writes it")
    module = module.to(model.dtype)
    if not module.is_of(model.module):
        raise ValueError(f"{path} holds the completer of another model than {arguments.model}")
    return module.eval()
