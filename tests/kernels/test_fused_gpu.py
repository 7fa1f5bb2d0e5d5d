"""The kernels in Triton: run as Python by Triton's interpreter, and compiled, but not run, for GPUs.

The interpreter is a switch of a whole process, read as Triton is imported. So these tests, and those of all backends,
are run once more in a process of their own, which a developer can start as well:
`TRITON_INTERPRET=1 pytest tests/kernels -k triton -W ignore::RuntimeWarning`.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyro_pcflow as pcf
from helpers.comparison import errors, evaluate, make
from pyro_pcflow.kernels import dispatch as backends
from pyro_pcflow.kernels.gpu import launch as fused_gpu
from pyro_pcflow.ops.network import ACTIVATIONS
from pyro_pcflow.transforms.lowering import lower

HERE = Path(__file__).parent
interpreted = pytest.mark.skipif(not fused_gpu.INTERPRETED, reason="run by test_in_the_interpreter and its like")
compiled = pytest.mark.skipif(fused_gpu.INTERPRETED or not fused_gpu.TRITON, reason="needs Triton, and to compile")

STACK = {"point_dim": 3, "num_couplings": 2, "hidden_dims": [20, 20], "num_frequencies": 2}
STACKS = {
    "wide": {**STACK, "point_dim": 5, "hidden_dims": [512, 33], "masks": "halves"},
    "deep": {**STACK, "hidden_dims": [24] * 4, "residual": True, "activation": "silu"},
    "eight coordinates": {**STACK, "point_dim": 8, "num_couplings": 3, "masks": "halves", "activation": "gelu"},
    "additive": {**STACK, "coupling": "additive", "num_frequencies": 0},
    "two networks": {**STACK, "separate_networks": True, "hidden_dims": [40, 7]},
    "two deep networks": {**STACK, "separate_networks": True, "hidden_dims": [9] * 4, "residual": True},
    "one layer": {**STACK, "hidden_dims": [1], "context_dim": 5},
    "film": {**STACK, "context_dim": 5, "conditioning": "film", "hidden_dims": [70, 70, 70], "residual": True},
    "squash": {**STACK, "context_dim": 5, "conditioning": "concat_squash", "context_layers": [1], "activation": "tanh"},
    **{name: {**STACK, "activation": name, "context_dim": 5} for name in ACTIVATIONS},
}


def example(options, clouds, points):
    stack = make(options)
    torch.manual_seed(1)
    context = torch.randn(clouds, 1, options["context_dim"]) if options.get("context_dim") else None
    return stack, torch.randn(clouds, points, options["point_dim"]), context


def assert_exact(stack, x, context, inverse):
    twin = copy.deepcopy(stack).double()
    pcf.kernels.set_backend(stack, "triton")
    exact = evaluate(twin, x.double(), None if context is None else context.double(), inverse)
    value, gradient = errors(evaluate(stack, x, context, inverse), exact)
    assert value < 1e-5
    assert gradient < 1e-5


@interpreted
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", STACKS)
def test_every_kind_of_stack(name, inverse):
    assert_exact(*example(STACKS[name], clouds=2, points=83), inverse)


@interpreted
@pytest.mark.parametrize("processors", [1, 2, 5, 100])
@pytest.mark.parametrize(("clouds", "points"), [(1, 1), (1, 300), (3, 65), (5, 16), (2, 130)])
def test_however_points_are_cut(monkeypatch, processors, clouds, points):
    """In tiles of any size, several of a block or one, and groups that blocks share or do not."""
    monkeypatch.setattr(fused_gpu, "_processors", lambda _: processors)
    monkeypatch.setattr(fused_gpu, "BLOCKS_PER_PROCESSOR", 1)
    monkeypatch.setattr(fused_gpu, "BLOCKS_PER_PROCESSOR_BACK", 1)
    options = {**STACK, "num_couplings": 1, "hidden_dims": [5], "context_dim": 5, "conditioning": "film"}
    assert_exact(*example(options, clouds, points), True)


@interpreted
def test_little_memory_for_the_gradients_of_weights(monkeypatch):
    monkeypatch.setattr(fused_gpu, "MAX_PARTS", 1)
    assert_exact(*example(STACK, clouds=2, points=300), True)


@interpreted
@pytest.mark.parametrize(("clouds", "points"), [(3, 70), (0, 10), (3, 0)])
@pytest.mark.parametrize("inverse", [False, True])
def test_only_what_is_wanted_is_written(clouds, points, inverse):
    stack, x, context = example({**STACK, "context_dim": 5}, clouds, points)
    program, weights, offsets = lower(list(stack.parts), context.squeeze(1), clouds, 3)
    weights, offsets = weights.detach(), offsets.detach()
    out, log_det, saved = fused_gpu.forward(program, x, weights, offsets, inverse, True)
    again = fused_gpu.forward(program, x, weights, offsets, inverse, False)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], log_det)
    assert saved.shape == (program.num_moved, clouds, points)
    assert again[2].shape == (0, clouds, points)
    arguments = (program, out, saved, weights, offsets, torch.randn_like(out), torch.randn_like(log_det), inverse)
    all_three = fused_gpu.backward(*arguments, True)
    but_weights = fused_gpu.backward(*arguments, False)
    assert all_three[1].shape == weights.shape
    assert but_weights[1].shape == (0,)
    assert torch.equal(all_three[0], but_weights[0])
    assert torch.equal(all_three[2], but_weights[2])
    if x.numel() == 0:
        assert not all_three[1].any()
        assert not all_three[2].any()


# In processes of their own


def run_in_the_interpreter(tests, marks, chosen):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # NumPy warns where a GPU goes on with infinity.
    options = ["-q", "-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider", "--timeout", "1200"]
    command = [sys.executable, "-m", "pytest", str(HERE / tests), *options, "-m", marks, "-k", chosen]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


needs_interpreter = pytest.mark.skipif(
    fused_gpu.INTERPRETED or not fused_gpu.TRITON, reason="needs Triton, and not its interpreter yet"
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_interpreter
def test_in_the_interpreter():
    """One stack with all that a layer may have, both ways, groups that blocks share, and what is left out."""
    chosen = "(every_kind and two and deep) or (every_kind and film and True) or (cut and 5-16-2) or wanted and 3-70"
    run_in_the_interpreter("test_fused_gpu.py", "not slow and not exhaustive", chosen)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_interpreter
@pytest.mark.parametrize("tests", ["test_fused_gpu.py", "test_backends.py", "test_equality.py"])
def test_all_in_the_interpreter(tests):
    # Programs that run one after the other always repeat themselves, and six hundred calls take hours.
    run_in_the_interpreter(tests, "not slow", "(triton or fused_gpu) and not same_bits and not memory_is_flat")


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "tile"),
    [
        (80, fused_gpu.TILES[0]),
        *[
            pytest.param(*pair, marks=pytest.mark.exhaustive)
            for pair in itertools.product((80, 90), fused_gpu.TILES)
            if pair != (80, fused_gpu.TILES[0])
        ],
    ],
)
def test_compiles_for_gpus_and_fits_into_them(capability, tile, tmp_path, monkeypatch):
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pyro_pcflow.kernels.gpu import backward as triton_backward
    from pyro_pcflow.kernels.gpu import forward as triton_forward

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    both = ((triton_forward.run, fused_gpu.OPTIONS), (triton_backward.run_back, fused_gpu.OPTIONS_BACK))
    for kernel, options in both:
        constants = {"TILE": tile, "ROWS": fused_gpu.PRODUCT_ROWS[-1]}
        signature = dict.fromkeys(kernel.arg_names, "*fp32") | {"table": "*i32"}
        signature |= dict.fromkeys(kernel.arg_names[kernel.arg_names.index("scratch") + 1 :], "i32")
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, signature, {(kernel.arg_names.index(n),): value for n, value in constants.items()})
        result = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert len(result.asm["cubin"]) > 0
        assert result.metadata.shared <= 48 * 1024
        # Products on tensor cores would round their factors.
        assert "mma" not in result.asm["ptx"]


# Choosing


class Pretended:
    """As much of points on a GPU as a choice looks at."""

    def __init__(self, *shape, dtype=torch.float32):
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, torch.device("cuda")

    def numel(self):
        return self.shape.numel()


def test_auto_takes_triton_on_a_gpu(monkeypatch):
    monkeypatch.setattr(backends, "_triton", lambda: backends.Availability(True, "here"))
    assert backends.choose("auto", Pretended(4, 100, 3), 4) == "triton"
    assert backends.choose("triton", Pretended(4, 1, 3), 4) == "triton"
    assert backends.choose("auto", Pretended(4, 1, 3), 4) == "plain"
    assert backends.choose("auto", Pretended(4, 100, 9), 4) == "plain"
    for dtype in (torch.float64, torch.float16):
        assert backends.choose("triton", Pretended(4, 100, 3, dtype=dtype), 4) == "plain"
    for other in ("plain", "tiled", "fused"):
        assert backends.choose(other, Pretended(4, 100, 3), 4) == "plain"
    for module, name in ((torch, "is_autocast_enabled"), (backends, "in_function_transform")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_: True)
            assert backends.choose("triton", Pretended(4, 100, 3), 4) == "plain"


def test_without_triton_it_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(fused_gpu, "TRITON", False)
    backends._say_once.cache_clear()
    assert "not installed" in pcf.kernels.available()["triton"].detail
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert backends.choose("auto", Pretended(4, 100, 3), 4) == "plain"
    assert len(caplog.records) == 1
    with pytest.raises(ValueError, match=r"'triton' was asked for, but Triton.* is not installed"):
        backends.choose("triton", Pretended(4, 100, 3), 4)
    backends._say_once.cache_clear()


@pytest.mark.skipif(fused_gpu.INTERPRETED, reason="the interpreter takes tensors of a CPU")
def test_points_on_a_cpu_are_refused(monkeypatch):
    monkeypatch.setattr(backends, "_triton", lambda: backends.Availability(True, "here"))
    with pytest.raises(ValueError, match="'triton' was asked for, but the points are on a CPU"):
        backends.choose("triton", torch.randn(4, 100, 3), 4)


def test_triton_is_imported_only_where_it_runs():
    code = "import sys, pyro_pcflow as pcf; pcf.kernels.available(); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
