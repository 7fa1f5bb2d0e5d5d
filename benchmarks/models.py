"""The comparison of model families: flows, Pyro's own, decoders that are no flows, and a game, at equal seconds.

    python -m benchmarks.models body.npz headwear.npz chair.npz --out models.jsonl     # all presets and rivals
    python -m benchmarks.models body.npz --models default gan --seconds 20 --seeds 0   # a short look
    python -m benchmarks.models body.npz --models ablations --out models.jsonl
    python -m benchmarks.models body.npz --models gan --split val --lr 2e-3            # to choose a learning rate

Every model trains on the same clouds for the same seconds under the same seeds, in turn, so that all meet the same
machine; its samples are compared with the clouds of the test split, and where it has a density, that of these clouds
is scored. Every run is added to ``--out`` as it ends. A run that the file has, by data, model, seed, seconds, steps and
learning rate, is not run again, so that the same command goes on where it was stopped; a file with runs of another
protocol is refused. docs/benchmarks.md has the tables, each with its command. See ``model_families`` for who takes
part, ``model_runs`` for the protocol and for what counts as a failure, and ``model_table`` for how the table is read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.model_families import FAMILIES, GROUPS, chosen_families
from benchmarks.model_records import TRAIN_ROW, Key, ModelRun, Protocol, append_run, check_protocols, read_runs
from benchmarks.model_runs import make_protocol, run_model, run_train_row
from benchmarks.model_table import table
from benchmarks.vae import Category, load_category


def compare(
    categories: Sequence[tuple[Category, Protocol]],
    models: Sequence[str],
    seeds: Sequence[int],
    *,
    lr: float | None = None,
    known: Sequence[ModelRun] = (),
    report: Callable[[ModelRun], None] = lambda run: None,
) -> list[ModelRun]:
    """Run what is not known yet, seed by seed, the models of each in turn.

    Args:
        categories: data, each with its protocol.
        models: names of families.
        seeds: of the runs of each.
        lr: a learning rate for all instead of their own.
        known: earlier runs.
        report: called with every new run as it ends.

    Returns:
        The runs that were asked for, the known ones among them included.
    """
    runs = {run.key: run for run in known}
    wanted: list[tuple[Key, Callable[[], ModelRun]]] = []
    for category, protocol in categories:
        length = (protocol.seconds, protocol.max_steps)
        wanted.append(((category.name, TRAIN_ROW, 0, *length, None), partial(run_train_row, category, protocol)))
        for seed in seeds:
            for model in models:
                rate = FAMILIES[model].lr if lr is None else lr
                key = (category.name, model, seed, *length, rate)
                wanted.append((key, partial(run_model, model, category, seed, rate, protocol)))
    for key, run in wanted:
        if key not in runs:
            runs[key] = run()
            report(runs[key])
    return [runs[key] for key, _ in wanted]


def describe(run: ModelRun) -> str:
    """One run as a line of text."""
    nats = "no nats" if run.nats_per_point is None else f"{run.nats_per_point:.3f} nats per point"
    nna = run.scores.get("1-nna-cd")
    quality = "no scores" if nna is None else f"1-NNA {sum(nna) / len(nna):.1%}"
    failed = f", FAILED: {'; '.join(run.failures)}" if run.failures else ""
    return (
        f"{run.protocol.data} {run.model} seed {run.seed}: {nats}, {quality} after {run.steps} steps in "
        f"{run.trained_seconds:.1f} s{failed}"
    )


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--out", type=Path, help="the file of all runs, a JSON object a line; it is gone on with")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        models = chosen_families(arguments.models)
    except ValueError as error:
        parser.error(str(error))

    categories = []
    for path in arguments.data:
        category = load_category(path)
        protocol = make_protocol(
            category,
            split=arguments.split,
            seconds=arguments.seconds if arguments.steps is None else None,
            max_steps=arguments.steps,
            num_points=arguments.points,
            scored_points=arguments.scored_points,
            particles=arguments.particles,
            draws=arguments.draws,
            device=device,
        )
        categories.append((category, protocol))
    known: list[ModelRun] = []
    if arguments.out is not None:
        try:
            known = read_runs(arguments.out)
            for _, protocol in categories:
                check_protocols(known, protocol)
        except ValueError as error:
            parser.error(str(error))

    def report(run: ModelRun) -> None:
        print(describe(run), file=sys.stderr, flush=True)
        if arguments.out is not None:
            append_run(arguments.out, run)

    runs = compare(categories, models, arguments.seeds, lr=arguments.lr, known=known, report=report)
    for _, protocol in categories:
        print(*table(runs, protocol), "", sep="\n")


if __name__ == "__main__":
    main()
