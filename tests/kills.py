"""Is anything lost when a process is stopped? Kill trainings and commands at random moments, and finish them.

    python -m tests.kills [--kills N] [--seed N] [--commands NAME ...]

Each victim is forked from this process, which has imported everything and computed nothing: a fork of a process in
which torch has started threads may hang. After each kill, every file under its final name must be whole, and what was
logged longer ago than a checkpoint must not be lost; then the command is repeated (a training: resumed) until it ends,
and what it leaves must be that of an undisturbed command, to the last bit. The exit status is 1 otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import matplotlib.pyplot  # noqa: F401
import numpy as np
import pyro.infer  # noqa: F401
import scipy.optimize
import scipy.spatial  # noqa: F401
import torch

import pyro_pcflow as pcf
from pyro_pcflow import cli
from pyro_pcflow.training import toml

CHECKPOINT_EVERY = 3
TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.tmp")
STOPS = {signal.SIGINT, signal.SIGTERM}
ENDINGS = {
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": 128 + signal.SIGTERM,
    "SIGINT": 128 + signal.SIGINT,
    "SIGINT twice": 128 + signal.SIGINT,
}


def small_flow(context_dim=0):
    torch.manual_seed(0)
    # In float64 the kernel that would be compiled first, and start threads, leaves it to torch.
    return pcf.PointCloudFlow(3, context_dim, num_couplings=2, hidden_dims=[8]).double()


def small_vae():
    torch.manual_seed(0)
    vae = pcf.PointCloudVAE(
        3, 4, decoder={"num_couplings": 2, "hidden_dims": [8]}, encoder={"point_dims": [8], "hidden_dims": [8]}
    )
    return vae.double()


def train(module, data, steps, out, **options):
    logging = pcf.training.Logging(log_every=4, eval_every=10, checkpoint_every=CHECKPOINT_EVERY, pictures=False)
    options |= {"batch_size": 16, "noise": 0.1, "logging": logging, "device": "cpu"}
    pcf.fit(module, data, max_steps=steps, out=out, resume=True, **options)


def train_with_contexts(inputs, out):
    clouds = torch.from_numpy(np.load(inputs / "clouds.npy"))
    train(small_flow(context_dim=3), (clouds, clouds.mean(1)), 150, out)


def train_with_adamw(inputs, out):
    clouds = torch.from_numpy(np.load(inputs / "clouds.npy"))[:2]
    train(small_flow(), clouds, 150, out, optimizer=lambda weights: torch.optim.AdamW(weights, 3e-3, amsgrad=True))


def prepare(inputs):
    """Write what the commands read."""
    clouds = torch.randn(40, 300, 3)
    np.save(inputs / "clouds.npy", clouds.numpy())
    (inputs / "folder").mkdir()
    for number, cloud in enumerate(clouds):
        np.save(inputs / "folder" / f"{number:02}.npy", cloud.numpy())
    flow = small_flow()
    flow.normalize(clouds.flatten(0, 1))
    pcf.save(flow, inputs / "flow.pt")


def matrices(inputs, out):
    clouds = torch.from_numpy(np.load(inputs / "clouds.npy"))
    # Two distances: one computed in threads, one row by row.
    for distance, some in (("emd", clouds[:8, :150]), ("chamfer", clouds)):
        matrix = pcf.metrics.pairwise(some, distance=distance, path=out / "rows")
        file = out / f"{distance}.npy"
        if not file.exists():
            pcf.data.save_clouds(matrix[None], file)


# What a victim does; given the folder of its inputs, and that of its outputs.
COMMANDS = {
    "train flow": lambda i, o: train(small_flow(), torch.from_numpy(np.load(i / "clouds.npy"))[:2], 150, o),
    "train vae": lambda i, o: train(small_vae(), torch.from_numpy(np.load(i / "clouds.npy")), 50, o),
    "train contexts": train_with_contexts,
    "train adamw": train_with_adamw,
    "convert": lambda i, o: cli.main(
        ["convert", str(i / "folder"), "--out", str(o / "new.npy"), "--num-points", "200"]
    ),
    "sample": lambda i, o: cli.main(
        ["sample", str(i / "flow.pt"), "--out", str(o / "new.npz"), "--num-clouds", "60", "--device", "cpu"]
    ),
    "score": lambda i, o: cli.main(
        ["score", str(i / "flow.pt"), str(i / "clouds.npy"), "--out", str(o / "new.csv"), "--num-points", "300"]
    ),
    "matrices": matrices,
}


class Campaign:
    """Kills of one command in a folder of its own.

    Args:
        folder: for its inputs and outputs.
        name: of the command.
    """

    def __init__(self, folder, name):
        self.name, self.folder, self.training = name, folder, name.startswith("train")
        self.inputs, self.whole = folder / "inputs", folder / "whole"
        self.numbers = itertools.count()
        self.inputs.mkdir(parents=True)
        self._must_end_well(self._fork(lambda: prepare(self.inputs)))
        # The first reads from the disk what the others find in memory, and would tell them too long a time.
        for out in (folder / "first", self.whole):
            out.mkdir()
            start = time.monotonic()
            self._must_end_well(self._fork(lambda out=out: COMMANDS[name](self.inputs, out)))
            self.seconds = time.monotonic() - start
        self.expected = self._outcome(self.whole)

    def kill(self, kind, moments, times):
        """Kill one after the other, end it undisturbed, and return how each victim ended."""
        out = self.folder / str(next(self.numbers))
        out.mkdir()
        ends = []
        for _ in range(times):
            before = self._step(out)
            ends.append(self._kill_once(out, kind, moments))
            self._check(out, before, kind)
            if not self.training and self._is_done(out):
                break
        if self.training or not self._is_done(out):
            self._must_end_well(self._fork(lambda: COMMANDS[self.name](self.inputs, out)))
        assert self._outcome(out) == self.expected, f"{self.name}, {kind}: ended otherwise than undisturbed"
        return ends

    def _kill_once(self, out, kind, moments):
        victim = self._fork(lambda: COMMANDS[self.name](self.inputs, out))
        time.sleep(moments.uniform(0.0, self.seconds))
        number = getattr(signal, kind.split()[0])
        os.kill(victim, number)
        if kind.endswith("twice"):
            time.sleep(moments.choice([0.0, 0.0005, 0.005]))
            os.kill(victim, number)
        code = self._wait(victim)
        assert code in (0, ENDINGS[kind]), f"{self.name}, {kind}: status {code}\n{self._log()}"
        return "in time" if code else "too late"

    def _check(self, out, before, kind):
        for file in out.rglob("*"):
            name = file.relative_to(out)
            if file.is_dir() or file.name == ".lock":
                continue
            if file.name.endswith(".tmp"):
                assert TEMPORARY.fullmatch(file.name), f"left over: {name}"
            elif self.training and file.name == "checkpoint.pt":
                torch.load(file, weights_only=True)
            elif self.training and file.name == "config.toml":
                assert toml.loads(file.read_text())["settings"]["checkpoint_every"] == CHECKPOINT_EVERY
            elif self.training and file.name == "metrics.jsonl":
                pass
            else:
                assert self._content(file) == self.expected[str(name)], f"{self.name}, {kind}: {name} is not whole"
        if self.training:
            after, logged = self._step(out), self._logged(out)
            assert after >= max(before, logged - CHECKPOINT_EVERY), f"{kind}: {before}, logged {logged}, now {after}"
            if kind != "SIGKILL":
                assert after >= logged, f"{kind}: steps were lost from {logged} on, the checkpoint is of {after}"

    def _is_done(self, out):
        names = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
        return self.expected.keys() <= names

    def _outcome(self, out):
        left = {}
        for file in out.rglob("*"):
            if file.is_file() and not file.name.startswith(".") and file.name not in ("checkpoint.pt", "config.toml"):
                left[str(file.relative_to(out))] = self._content(file)
        return left

    def _content(self, file):
        if file.name == "metrics.jsonl":
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            return [{key: line[key] for key in line if key not in ("seconds", "points_per_second")} for line in lines]
        return file.read_bytes()

    def _step(self, out):
        file = out / "checkpoint.pt"
        return torch.load(file, weights_only=True)["step"] if file.exists() else -1

    def _logged(self, out):
        """The last whole line; a killed process may have left half of one, which a resumed run mends."""
        file = out / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=-1)

    def _fork(self, work):
        # A signal waits until the victim has its handlers, and comes to nothing once it has let them go: for before and
        # after, any process has those of the system.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        child = os.fork()
        if child:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            return child
        code = 1
        try:
            with (self.folder / "log").open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            # As in a new process, whatever this one was started by.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with pcf.ops.signals.interruptible():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
                try:
                    code = work() or 0
                finally:
                    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        except KeyboardInterrupt as error:
            code = 128 + getattr(error, "signum", signal.SIGINT)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _wait(self, child):
        end = time.monotonic() + 120
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise AssertionError(f"{self.name} did not end")

    def _must_end_well(self, child):
        code = self._wait(child)
        assert code == 0, f"{self.name}: status {code}\n{self._log()}"

    def _log(self):
        return (self.folder / "log").read_text()


def run(kills, seed, names):
    """Print a line a command and signal, and return whether nothing was lost."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    pairs = list(itertools.product(names, ENDINGS))
    draw.shuffle(pairs)
    share = {pair: kills // len(pairs) + (number < kills % len(pairs)) for number, pair in enumerate(pairs)}
    total, well = 0, True
    print(f"{'command':16}{'signal':14}{'kills':>6}  outcome", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if not any(share[name, kind] for kind in ENDINGS):
                continue
            campaign = Campaign(Path(folder, name), name)
            for kind in ENDINGS:
                ends = []
                said = "same to the last bit"
                try:
                    while len(ends) < share[name, kind]:
                        # A training is killed several times on its way, a command until it is done.
                        ends += campaign.kill(kind, draw, min(share[name, kind] - len(ends), 3))
                except AssertionError as error:
                    said, well = str(error), False
                if ends or said != "same to the last bit":
                    counts = Counter(ends)
                    total += len(ends)
                    print(f"{name:16}{kind:14}{len(ends):6}  {said} ({counts['in time']} in time)", flush=True)
    print(f"{total} kills")
    return well


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments = parser.parse_args()
    sys.exit(0 if run(arguments.kills, arguments.seed, arguments.commands) else 1)
