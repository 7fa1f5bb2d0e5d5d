"""A run in a process of its own, for tests that kill it: `python killed_run.py OUT MAX_STEPS`."""

from __future__ import annotations

import sys
import warnings

from stand_ins import small_stack, some_points

from pyro_pcflow.training import fit

OPTIONS = {"batch_size": 64, "noise": 0.1, "log_every": 3, "eval_every": 10, "checkpoint_every": 2, "device": "cpu"}

if __name__ == "__main__":
    warnings.simplefilter("error")
    fit(small_stack(), some_points(), max_steps=int(sys.argv[2]), out=sys.argv[1], resume=True, **OPTIONS)
