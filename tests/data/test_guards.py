"""Thousands of damaged files: each loads finite points or raises `CloudError`, soon and in little memory."""

from __future__ import annotations

import re
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_pcflow.data import CloudError, load_clouds

resource = pytest.importorskip("resource")

EXTRA_BYTES = 1 << 30
NUMBERS = [b"0", b"-1", b"3", b"255", b"65536", b"2147483647", b"4294967295", b"99999999999999", b"1e400", b"nan"]


def flip(data, rng):
    """Flip a few bits anywhere."""
    for _ in range(rng.integers(1, 8)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data


def truncate(data, rng):
    return data[: rng.integers(len(data))]


def insert(data, rng):
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:]


def splice(data, rng):
    """Copy one part over another place."""
    start, stop = sorted(rng.integers(len(data), size=2))
    at = rng.integers(len(data))
    return data[:at] + data[start:stop] + data[at + rng.integers(0, 40) :]


def renumber(data, rng):
    """Replace a number written in text, early ones (a header's) more often."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data)))
    if not found:
        return flip(data, rng)
    hit = found[int(len(found) * rng.random() ** 3)]
    return data[: hit.start()] + NUMBERS[rng.integers(len(NUMBERS))] + data[hit.end() :]


def saturate(data, rng):
    """Write an extreme 32-bit number somewhere in the first hundred bytes, where binary headers count."""
    at = int(rng.integers(min(len(data), 100)))
    value = [0, 1, 2**31 - 1, 2**32 - 1, 2**24][rng.integers(5)]
    data[at : at + 4] = value.to_bytes(4, "little")
    return data


MUTATIONS = [flip, truncate, insert, splice, renumber, saturate]


@pytest.fixture
def little_memory():
    """Refuse this process a gigabyte more than it has: a larger allocation fails, and the test with it."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def lowest_cause(error):
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__
    return error


def attempt(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*points repeat", category=UserWarning)
        try:
            return load_clouds(path, 16), None
        except CloudError as error:
            return None, error


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("rounds", [60, pytest.param(500, marks=pytest.mark.exhaustive)])
def test_damaged_files(rounds, tmp_path, any_format, little_memory, capfd):
    name, write = any_format
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    points = rng.normal(size=(40, 3))
    whole = write(points, rng.permuted(np.tile(np.arange(40), (60, 1)), axis=1)[:, :3])
    path = tmp_path / name
    loaded = 0
    for number in range(rounds):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 3)):
            data = bytearray(MUTATIONS[number % len(MUTATIONS)](data or bytearray(b"x"), rng))
        path.write_bytes(data)
        start = time.perf_counter()
        clouds, error = attempt(path)
        assert time.perf_counter() - start < 10, f"round {number} took too long"
        if error is None:
            loaded += 1
            assert torch.isfinite(clouds).all()
            assert clouds.shape[1] == 16
        else:
            assert str(error).startswith(f"{path}: ")
            assert not isinstance(lowest_cause(error), MemoryError), f"round {number}: {error}"
    # Some damage goes unnoticed by nature; all of it doing so, or none, would mean that nothing is tested.
    assert loaded < rounds
    assert capfd.readouterr() == ("", "")
