"""Does the suite notice? Break the package on purpose, in one place at a time, and run the tests that ought to fail.

    python -m tests.mutate [--room NAME ...] [--jobs N] [--against CHECKOUT] [--json FILE]

The mutants of a room are listed in `tests/mutants/ROOM.toml`: a file, text that occurs once in it, what stands there
instead, the tests that are run, why it would be a fault, and `equivalent = "reason"` where no test can tell. They are
chosen by hand: random ones, as mutmut or cosmic-ray make them, are in code of this kind mostly noticed at once (a wrong
shape) or harmless, and each would cost the import of torch. Here one process imports it and forks for each mutant. The
tests marked `exhaustive` are run where the others do not notice.

A mutant is caught by a test that fails with it and passes without it, or by a test that does not end within `limit`
seconds (300 unless the entry says otherwise). `--against` runs the same mutants on another checkout, say an older one,
with all of its tests that lie in the files named; where the code has changed, `before = {old, new, file, tests}` gives
the counterpart. The exit status is 1 unless every mutant is caught or equivalent.
"""

from __future__ import annotations

import argparse
import collections
import compileall
import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

import pytest

ROOT = Path(__file__).parents[1]
WARM = ("torch", "pyro.infer", "scipy.stats", "hypothesis", "trimesh", "matplotlib.pyplot", "PIL.Image", "tqdm.auto")
CACHE = "PYRO_PCFLOW_CACHE"
QUICK, EXHAUSTIVE = ("-m", "not exhaustive"), ("-m", "exhaustive")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "site", "dist", "build", "runs")
COLUMNS = ("caught", "equivalent", "survived", "not there before", "does not apply", "red without it")


class FirstFailure:
    """A plugin of pytest that writes the id of the first test, or module, that fails."""

    def __init__(self, file):
        self.file = file

    def pytest_configure(self, config):
        config.addinivalue_line("markers", "exhaustive: an older checkout may not know it")

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.file.exists():
            self.file.write_text(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport


class Bench:
    """A copy of a checkout, in which one mutant after the other is tried."""

    def __init__(self, checkout, older, folder):
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.tree, self.cache, self.older = self.folder / "tree", self.folder / "cache", older
        shutil.copytree(checkout, self.tree, ignore=LEFT_OUT)
        # A source of the same size and the same second must not be mistaken for the one that was compiled.
        compileall.compile_dir(self.tree, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        kernels = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "pyro_pcflow")
        shutil.copytree(kernels, self.cache) if kernels.is_dir() else self.cache.mkdir(mode=0o700)
        self.without = {}

    def judge(self, mutant):
        """Return the mutant with its `status`, what it was caught `by`, and the `seconds` that it took."""
        start = time.monotonic()
        edit = {**mutant, **(mutant.get("before", {}) if self.older else {})}
        path = self.tree / edit["file"]
        source = path.read_text() if path.is_file() else ""
        if source.count(edit["old"]) != 1 or edit["old"] == edit["new"]:
            status = "not there before" if self.older else "does not apply"
            return {**mutant, "status": status, "by": f"`old` occurs {source.count(edit['old'])} times", "seconds": 0.0}
        tests, limit = edit["tests"], edit.get("limit", 300)
        path.write_text(source.replace(edit["old"], edit["new"]))
        private = "/kernels/" in edit["file"]
        try:
            marked = QUICK
            outcome, by = self.run(tests, limit, private, *marked)
            if outcome == "passed" and "equivalent" not in mutant:
                marked = EXHAUSTIVE
                outcome, by = self.run(tests, limit, private, *marked)
        finally:
            path.write_text(source)
        if outcome == "passed":
            status = "equivalent" if "equivalent" in mutant else "survived"
        elif outcome == "hung":
            quiet = self.passes_without(tests, limit, *marked)
            status, by = ("caught" if quiet else "red without it"), f"no end in {limit} s"
        elif "::" in by:
            status = "caught" if self.passes_without([by], limit) else "red without it"
        else:
            status = (
                "caught" if self.passes_without([by] if by else tests, limit, "--collect-only") else "red without it"
            )
        if status == "red without it" and not by:
            by = " ".join((self.folder / "log").read_text(errors="replace").split()[-30:])
        return {**mutant, "status": status, "by": by, "seconds": round(time.monotonic() - start, 1)}

    def passes_without(self, tests, limit, *options):
        """Whether tests pass, or can at least be collected, where nothing is broken; tried once."""
        if (key := (*options, *tests)) not in self.without:
            self.without[key] = self.run(tests, limit, False, *options)[0] == "passed"
        return self.without[key]

    def run(self, tests, limit, private, *options):
        """Run tests, those of each folder in a fork of its own: two `conftest.py` may not fit into one process."""
        if self.older:
            files = [test.partition("::")[0] for test in tests]
            tests = {file if (self.tree / file).exists() else str(Path(file).parent) for file in files}
        outcome, by = "failed", ""
        for _, group in itertools.groupby(sorted(tests), key=lambda test: Path(test.partition("::")[0]).parent):
            outcome, by = self.fork([*options, *group], limit, private)
            if outcome != "passed":
                break
        return outcome, by

    def fork(self, arguments, limit, private):
        """Return `passed`, `failed` and by which test (none if pytest itself failed), or `hung`."""
        first, log, cache = self.folder / "first", self.folder / "log", self.cache
        first.unlink(missing_ok=True)
        if private:
            cache = Path(shutil.copytree(self.cache, tempfile.mkdtemp(dir=self.folder), dirs_exist_ok=True))
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.setsid()
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.chdir(self.tree)
                sys.path.insert(0, str(self.tree))
                sys.modules.pop("tests", None)
                sys.dont_write_bytecode = True
                os.environ.update({"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1", CACHE: str(cache)})
                always = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(self.tree)]
                always += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--basetemp", str(self.folder / "tmp")]
                code = pytest.main([*always, *arguments], plugins=[FirstFailure(first)])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status, end = None, time.monotonic() + limit
        while status is None and time.monotonic() < end:
            time.sleep(0.02)
            ended, status = os.waitpid(child, os.WNOHANG)
            status = status if ended else None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what it has started
        if status is None:
            os.waitpid(child, 0)
            return "hung", ""
        code = os.waitstatus_to_exitcode(status)
        if code == 0 or (code == pytest.ExitCode.NO_TESTS_COLLECTED and "-m" in arguments):
            return "passed", ""
        return "failed", first.read_text() if first.exists() else ""


bench: Bench


def prepare(*arguments):
    global bench
    bench = Bench(*arguments)


def judge(mutant):
    return bench.judge(mutant)


def warm_up(modules):
    """Import what all tests need, in one thread: a fork has no others."""
    os.environ.update({"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"})
    for module in modules:
        importlib.import_module(module)
    if "torch" in modules:
        sys.modules["torch"].set_num_threads(1)


def main(arguments=None, root=ROOT, warm=WARM):
    root = Path(root)
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--room", nargs="+", help="the rooms to try, files of tests/mutants without .toml; all if left out"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at a time")
    parser.add_argument("--against", type=Path, default=None, help="another checkout, whose package and tests are used")
    parser.add_argument("--json", type=Path, help="a file for what was found")
    options = parser.parse_args(arguments)
    rooms = options.room or sorted(path.stem for path in (root / "tests/mutants").glob("*.toml"))
    lists = {room: tomllib.loads((root / f"tests/mutants/{room}.toml").read_text())["mutant"] for room in rooms}
    mutants = [{"room": room, **mutant} for room, listed in lists.items() for mutant in listed]
    warm_up(warm)
    found = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        setting = (options.against or root, options.against is not None, folder)
        with multiprocessing.get_context("fork").Pool(options.jobs, prepare, setting) as pool:
            for result in pool.imap(judge, mutants):
                found.append(result)
                print("{status}: {room}: {file}: {why} ({by}, {seconds} s)".format(**result), flush=True)
    counts = {room: collections.Counter(one["status"] for one in found if one["room"] == room) for room in rooms}
    counts["total"] = sum(counts.values(), collections.Counter())
    print(f"\n{'':14}", *(f"{column:>16}" for column in ("mutants", *COLUMNS)))
    for room, count in counts.items():
        print(f"{room:14}", *(f"{number:16}" for number in (count.total(), *(count[column] for column in COLUMNS))))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return int(any(one["status"] not in COLUMNS[:2] for one in found))


if __name__ == "__main__":
    sys.exit(main())
