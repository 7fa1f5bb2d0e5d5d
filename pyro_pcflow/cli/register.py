"""`pcflow register`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyro_pcflow.cli.custom import add_custom
from pyro_pcflow.cli.data_options import add_data_options
from pyro_pcflow.cli.shared import (
    Result,
    add_device,
    add_json,
    add_seed,
    add_sensor,
    check_exists,
    check_new_file,
    check_sensor,
    given,
    model_file,
    note,
    number,
    whole,
)

__all__ = ["add_arguments", "run"]

POINTS_OF_THE_OBJECT = 2048
# Beta prior of the share of outliers.
OUTLIERS = (1.0, 10.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Find the pose of a known object, a trained flow, in a scan: matrices from the object's frame to the scan's, "
        "their weights and covariances, and the probability of each point to be an outlier, in --out; and the object "
        "in its likeliest pose beside it (NAME.ply)."
    )
    parser.epilog = "example:\n  pcflow register runs/scan other_scan.ply --out pose.json --outliers 2 8"
    positive = number("a positive number", lambda value: value > 0)
    parser.add_argument("flow", type=Path, help="a run folder, or a model file, of one object")
    parser.add_argument("scan", help="a file of one cloud; a mesh with --scan-points")
    # Of the two options of this name, here that of the posterior counts, which weighs outliers and drops none.
    parser.conflict_handler = "resolve"
    add_data_options(parser)
    parser.set_defaults(stray_deviations=None)
    scan = parser.add_argument_group("scan")
    scan.add_argument("--scan-points", type=whole(4), help="points drawn from the scan (all of them)")
    add_sensor(parser)
    before = parser.add_argument_group("what is known beforehand")
    before.add_argument(
        "--spread", type=positive, help="deviation of the rotation's angles from --around, radians (any rotation)"
    )
    before.add_argument(
        "--around",
        type=number("a number", lambda _: True),
        nargs=4,
        metavar=("W", "X", "Y", "Z"),
        help="quaternion of the rotation that is likely beforehand (1 0 0 0)",
    )
    before.add_argument(
        "--scale-deviation", type=positive, help="deviation of the logarithm of the size (the object's own size)"
    )
    before.add_argument(
        "--outliers",
        type=positive,
        nargs=2,
        metavar=("A", "B"),
        help="Beta prior of the share of points that are not of the object (1 10)",
    )
    before.add_argument("--no-outliers", action="store_true", help="every point is of the object")
    inference = parser.add_argument_group("inference")
    inference.add_argument("--method", choices=["laplace", "hmc"], default="laplace", help="(%(default)s)")
    inference.add_argument("--num-samples", type=whole(1), default=200, help="draws of the posterior (%(default)s)")
    inference.add_argument("--num-starts", type=whole(1), default=512, help="poses to begin with (%(default)s)")
    add_seed(inference)
    model = parser.add_argument_group("model")
    add_custom(model)
    add_device(model)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, help="new file: .json")
    add_json(output)


def check(arguments: argparse.Namespace) -> None:
    """See that the outputs are new, that there are a flow and a scan, and that options go together."""
    check_new_file(arguments.out, [".json"])
    check_new_file(arguments.out.with_suffix(".ply"), [".ply"])
    check_sensor(arguments)
    if arguments.no_outliers and arguments.outliers is not None:
        raise ValueError("--outliers says how many there are, and --no-outliers that there are none: give one of them")
    model_file(arguments.flow)
    check_exists(arguments.scan)


def run(arguments: argparse.Namespace) -> Result:
    """Write what is known of the pose, and the object in it."""
    import pyro.distributions as dist
    import torch

    from pyro_pcflow.cli.models import PointModel, load_model
    from pyro_pcflow.cli.scans import half_space, read_scan, write_json
    from pyro_pcflow.data.saving import save_clouds
    from pyro_pcflow.infer import register
    from pyro_pcflow.ops.random import seeded
    from pyro_pcflow.transforms import Similarity

    picture = arguments.out.with_suffix(".ply")
    model = load_model(arguments.flow, arguments.device, None, arguments.custom)
    if not isinstance(model, PointModel):
        raise ValueError(
            f"{arguments.flow} holds a {type(model.module).__name__}, a model of many shapes: register takes a flow of "
            "one object"
        )
    scan = read_scan(arguments, model)
    model.module.requires_grad_(False)
    zero = scan.new_zeros(())
    deviation, prior = arguments.scale_deviation, given(arguments.outliers, OUTLIERS)
    with seeded(arguments.seed, model.device):
        found = register(
            model.module,
            scan,
            around=None if arguments.around is None else scan.new_tensor(arguments.around),
            spread=arguments.spread,
            scale=None if deviation is None else dist.LogNormal(zero, deviation),
            outlier_probability=None if arguments.no_outliers else dist.Beta(*scan.new_tensor(prior)),
            observe=half_space(arguments, scan),
            method=arguments.method,
            num_samples=arguments.num_samples,
            num_starts=arguments.num_starts,
        )
        points = model.sample(1, POINTS_OF_THE_OBJECT)[0]
    modes = found.modes
    with torch.no_grad():
        posed = Similarity(modes.rotation[0], modes.translation[0], modes.scale[0])(points)
    save_clouds(posed.unsqueeze(0), picture)
    write_json(
        {
            "matrix": found.matrix,
            "covariance": found.covariance,
            "modes": {
                "weights": modes.weight,
                "matrices": modes.matrices,
                "covariances": modes.covariance,
                "log_densities": modes.log_density,
            },
            "draws": found.matrices,
            "outlier_share": found.outlier_share.mean(),
            "outlier_probabilities": found.outlier_probability,
            "method": found.method,
            "diagnostics": found.diagnostics,
        },
        arguments.out,
    )
    away = found.covariance.diagonal().sqrt()
    degrees, units = away[:3].max().rad2deg().item(), away[3:].max().item()
    if len(modes.weight) > 1:
        shares = ", ".join(f"{share:.1%}" for share in modes.weight.tolist())
        note(f"{len(modes.weight)} poses explain the scan, with the probabilities {shares}: see modes in the file")
    share, method = found.outlier_share.mean().item(), found.method
    values = {"out": arguments.out, "picture": picture, "matrix": found.matrix.tolist(), "degrees": degrees}
    return Result.of(
        {**values, "units": units, "outlier_share": share, "weights": modes.weight.tolist(), "method": method},
        "known to {degrees:.3g} degrees and {units:.3g} units; {outlier_share:.1%} outliers",
        "{out}, {picture}",
    )
