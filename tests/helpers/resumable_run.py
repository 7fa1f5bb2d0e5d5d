"""A training into a folder, which can be stopped at a step and resumed."""

from __future__ import annotations

import json

from helpers.flat_fit import fit
from helpers.stand_ins import small_stack, some_points

STEPS = 40
OPTIONS = {"batch_size": 64, "noise": 0.1, "log_every": 3, "eval_every": 10, "checkpoint_every": 2, "device": "cpu"}
# What a finished run leaves.
FILES = {".lock", "config.toml", "metrics.jsonl", "checkpoint.pt", "model.pt"}


def run(out, *, before_step=None, tracks=True, max_steps=STEPS, resume=True, **options):
    module = small_stack(before_step=before_step, tracks=tracks)
    result = fit(module, some_points(), max_steps=max_steps, out=out, resume=resume, **{**OPTIONS, **options})
    return module, result


def stop_at(call, error=KeyboardInterrupt):
    def before_step(now):
        if now == call:
            raise error

    return before_step


def steps_of(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses_of(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"], line["lr"], line.get("nats_per_point")) for line in lines]
