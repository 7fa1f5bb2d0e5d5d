"""The comparison of model families: flows, Pyro's own, decoders without flows, and a GAN, at equal seconds.

    python -m benchmarks.families body.npz headwear.npz chair.npz --out models.jsonl     # all presets and rivals
    python -m benchmarks.families body.npz --models default gan --seconds 20 --seeds 0   # a short look
    python -m benchmarks.families body.npz --models ablations --out models.jsonl
    python -m benchmarks.families body.npz --models gan --split val --lr 2e-3            # to choose a learning rate

Every model trains on the same clouds for the same seconds under the same seeds, alternating, so that the load of the
machine is the same for all. Its samples are compared with the clouds of the test split, and its density is scored on
them, if it has one. Every run is added to ``--out`` as it ends. A run that the file has, by data, model, seed, seconds,
steps and learning rate, is not run again, so that the same command continues where it was stopped; a file with runs of
another protocol is refused. docs/benchmarks.md has the tables, each with its command. See ``members.py`` for the
models, ``runs.py`` for the protocol and for what counts as a failure, and ``table.py`` for how to read the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.common.categories import load_category
from benchmarks.common.constants import NOISE_PER_DEVIATION
from benchmarks.families.members import FAMILIES, GROUPS, chosen_families
from benchmarks.families.records import Key, ModelRun, Training, append_run, check_protocols, read_runs
from benchmarks.families.runs import Judge, run_model
from benchmarks.families.table import table


def compare(
    judges: Sequence[Judge],
    models: Sequence[str],
    seeds: Sequence[int],
    training: Training,
    *,
    lr: float | None = None,
    known: Sequence[ModelRun] = (),
    report: Callable[[ModelRun], None] = lambda run: None,
) -> list[ModelRun]:
    """Run what is not known yet, seed by seed, the models of each in turn.

    Args:
        judges: of the samples, one for each category.
        models: names of families.
        seeds: of the runs of each.
        training: how all are trained.
        lr: a learning rate for all instead of their own.
        known: earlier runs.
        report: called with every new run as it ends.

    Returns:
        The runs that were asked for, the known ones among them included.
    """
    runs = {run.key: run for run in known}
    wanted: list[tuple[Key, Callable[[], ModelRun]]] = []
    for judge in judges:
        for seed in seeds:
            for model in models:
                rate = FAMILIES[model].lr if lr is None else lr
                key = (judge.category.name, model, seed, training.seconds, training.max_steps, rate)
                wanted.append((key, partial(run_model, model, judge, seed, rate, training)))
    for key, run in wanted:
        if key not in runs:
            runs[key] = run()
            report(runs[key])
    return [runs[key] for key, _ in wanted]


def describe(run: ModelRun) -> str:
    """One run as a line of text."""
    nats = "no nats" if run.nats_per_point is None else f"{run.nats_per_point:.3f} nats per point"
    failed = f", FAILED: {'; '.join(run.failures)}" if run.failures else ""
    return (
        f"{run.report.protocol.data} {run.model} seed {run.seed}: {nats}, 1-NNA {run.report['1-nna-cd']:.1%} after "
        f"{run.steps} steps in {run.trained_seconds:.1f} s{failed}"
    )


def tell(path: Path | None, run: ModelRun) -> None:
    """Report a run, and add it to the file, if there is one."""
    print(describe(run), file=sys.stderr, flush=True)
    if path is not None:
        append_run(path, run)


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.families",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, nargs="+", help="category files with points and split")
    parser.add_argument(
        "--models",
        nargs="+",
        default=["presets", "rivals"],
        help=f"names or groups of them ({', '.join(GROUPS)}): {', '.join(FAMILIES)}",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=120.0, help="training time of each run (%(default)s)")
    length.add_argument("--steps", type=int, help="train for these steps instead of seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds (%(default)s)")
    parser.add_argument("--lr", type=float, help="a learning rate for all models instead of their own")
    parser.add_argument("--points", type=int, default=512, help="points of samples and references (%(default)s)")
    parser.add_argument("--scored-points", type=int, default=1024, help="points of a scored cloud (%(default)s)")
    parser.add_argument("--particles", type=int, default=8, help="of the bound (%(default)s)")
    parser.add_argument("--draws", type=int, default=3, help="draws of samples (%(default)s)")
    parser.add_argument("--split", choices=["test", "val"], default="test", help="what is evaluated on (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (%(default)s)")
    parser.add_argument(
        "--out", type=Path, help="file of all runs, a JSON object per line; an existing one is continued"
    )
    arguments = parser.parse_args()
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        models = chosen_families(arguments.models)
    except ValueError as error:
        parser.error(str(error))

    training = Training(
        seconds=arguments.seconds if arguments.steps is None else None,
        max_steps=arguments.steps,
        noise=NOISE_PER_DEVIATION,
        scored_points=arguments.scored_points,
        particles=arguments.particles,
        device=device,
    )
    with tempfile.TemporaryDirectory() as folder:
        judges = [
            Judge(load_category(path), arguments.split, arguments.points, arguments.draws, folder)
            for path in arguments.data
        ]
        train_reports = [judge.train_report() for judge in judges]
        known: list[ModelRun] = []
        if arguments.out is not None:
            try:
                known = read_runs(arguments.out)
                for train in train_reports:
                    check_protocols(known, training, train.protocol)
            except ValueError as error:
                parser.error(str(error))
        runs = compare(
            judges, models, arguments.seeds, training, lr=arguments.lr, known=known, report=partial(tell, arguments.out)
        )
    for train in train_reports:
        print(*table(runs, training, train), "", sep="\n")


if __name__ == "__main__":
    main()
