"""What the compiled kernel is made of, one by one: its functions, its sums and its memory.

Errors are counted in units in the last place (ulp) of the exact value.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import helpers
from helpers.comparison import make
from pyro_pcflow.kernels.cpu import build as compiler
from pyro_pcflow.transforms.lowering import lower

SOURCE = Path(helpers.__file__).with_name("probe.cpp")
HALF_ULP = 2.0**-24


@pytest.fixture(scope="module", params=["avx512", "avx2", "portable"])
def probe(request, tmp_path_factory):
    """`probe.cpp`, for each of the instruction sets of this machine."""
    if request.param not in compiler.instruction_sets():
        pytest.skip(f"this machine has no {request.param} instructions")
    try:
        command = compiler.find_compiler()
    except compiler.KernelUnavailableError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("probe") / "probe.so"
    flags = [flag for flag in compiler._flags("fused", request.param) if flag != "-O3"]
    flags += ["-O1", f"-I{compiler.SOURCES}"]
    subprocess.run([*command, *flags, str(SOURCE), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def call(function, x, results=1):
    arrays = [np.empty_like(x) for _ in range(results)]
    function(pointer(x), ctypes.c_int64(x.size), *map(pointer, arrays))
    return arrays if results > 1 else arrays[0]


def between(low, high):
    return np.linspace(low, high, 160_000, dtype=np.float32)


def in_ulps(got, exact):
    return np.abs(got - exact) / np.spacing(np.abs(exact).astype(np.float32))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Each elementary operation loses half an ulp, and up to one more where its result falls below a power of two; a
# function of k operations whose condition number is 1 stays within k ulps.
@pytest.mark.parametrize(
    ("name", "exact", "low", "high", "ulps"),
    [
        ("exponential_of", np.exp, -87, 88, 1.5),
        ("tanh_of", np.tanh, -1e-3, 1e-3, 3),
        ("tanh_of", np.tanh, -10, 10, 3),
        ("silu_of", lambda x: x * sigmoid(x), -60, 80, 3),
        # The argument of the exponential has an error of half an ulp, which is x^2 / 2 of the result.
        ("gelu_of", lambda x: x * ndtr(x), -1, 8, 8),
        ("gelu_of", lambda x: x * ndtr(x), -5, -1, 5 + 5**2 / 2),
    ],
)
def test_functions_to_the_last_places(probe, name, exact, low, high, ulps):
    x = between(low, high)
    errors = in_ulps(call(getattr(probe, name), x), exact(x.astype(np.float64)))
    assert errors.max() < ulps
    assert errors.mean() < ulps / 4


def silu_slope(x):
    return sigmoid(x) * (1 + x * (1 - sigmoid(x)))


def gelu_slope(x):
    return ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize(
    ("name", "slope"),
    [("tanh", lambda x: 1 - np.tanh(x) ** 2), ("silu", silu_slope), ("gelu", gelu_slope)],
)
def test_slopes_and_their_values(probe, name, slope):
    """A slope is at most about 1, which an error is compared with, and each of its few terms at most `max(1, |x|)`."""
    x = between(-9, 9)
    value, got = call(getattr(probe, f"{name}_with_slope"), x, 2)
    np.testing.assert_allclose(value, call(getattr(probe, f"{name}_of"), x), rtol=8 * HALF_ULP, atol=1e-9)
    assert (np.abs(got - slope(x.astype(np.float64))) / np.maximum(1, np.abs(x))).max() < 6 * HALF_ULP


@pytest.mark.parametrize("high", [1.0, 50.0, 7990.0, 1e6])
def test_sines_and_cosines(probe, high):
    x = between(-high, high)
    for got, exact in zip(call(probe.sine_and_cosine_of, x, 2), (np.sin, np.cos), strict=True):
        assert np.abs(got - exact(x.astype(np.float64))).max() < 2 * HALF_ULP


def test_what_is_no_number_stays_none(probe):
    x = np.full(16, np.nan, dtype=np.float32)
    for name in ("exponential_of", "tanh_of", "silu_of", "gelu_of"):
        assert np.isnan(call(getattr(probe, name), x)).all()


@pytest.mark.parametrize("depth", [1, 31, 32, 33, 65, 512])
@pytest.mark.parametrize("rows", [1, 15])
def test_long_sums_are_taken_in_parts(probe, depth, rows):
    """Terms of variance 1 make partial sums of variance k, and a sum is rounded by at most half of its ulp.

    So the expected square of the error is at most the sum of the k over all partial sums, times the variance of a
    rounding, (2^-24)^2 / 3. Parts of 32 leave a ninth of it of a sum of 512 terms.
    """
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((rows, depth)).astype(np.float32)
    x = generator.standard_normal((depth, probe.tile())).astype(np.float32)
    y = np.empty((rows, probe.tile()), dtype=np.float32)
    probe.product_of(pointer(matrix), rows, depth, pointer(x), pointer(y))
    error = np.sqrt(np.mean((y - matrix.astype(np.float64) @ x) ** 2))
    of_sums = sum(k % 32 + 1 for k in range(depth)) + sum(range(32, depth + 32, 32))
    of_products = depth  # without a fused multiply-add
    assert error < HALF_ULP * np.sqrt((of_sums + of_products) / 3)


def test_an_arena_gives_no_more_than_it_was_asked_for(probe):
    def refuses(left, room, taken):
        return probe.refuses(*map(ctypes.c_int64, (left, room, taken)))

    assert not refuses(64, 64, 48)
    assert refuses(64, 64, 49)
    assert refuses(64, 0, 0)
    assert refuses(10_000, 64, 1000)  # although the memory that it got is larger
    assert refuses(64, 64, -1)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"hidden_dims": [20, 33], "num_frequencies": 2},
        {"hidden_dims": [20, 33], "masks": "keep_one", "num_frequencies": 0, "separate_networks": True},
    ],
)
def test_scratch_memory_is_what_was_counted(probe, options, backward):
    stack = make({"point_dim": 3, "num_couplings": 2, **options})
    program, _, _ = lower(list(stack.parts), None, 1, 3)
    code, limits = program.code(), program.limits()
    numbers = (ctypes.c_int32 * len(code))(*code), (ctypes.c_float * len(limits))(*limits)

    def fits(less):
        return probe.scratch_fits(*numbers, ctypes.c_int64(100), 3, int(backward), ctypes.c_int64(less))

    assert fits(0)
    assert not fits(1)


def test_too_little_memory_is_an_error_in_python(monkeypatch):
    from pyro_pcflow.kernels.cpu import launch as fused_cpu

    stack = make({"point_dim": 3, "num_couplings": 1, "hidden_dims": [8]})
    program, weights, offsets = lower(list(stack.parts), None, 1, 3)
    for status, error in ((1, MemoryError), (2, RuntimeError)):
        library = type("Library", (), {"pcf_run": staticmethod(lambda *_, status=status: status)})
        monkeypatch.setattr(fused_cpu, "load", lambda library=library: library)
        with pytest.raises(error, match="memory"):
            fused_cpu.forward(program, torch.randn(1, 100, 3), weights, offsets, True, False)
