"""The kernels in Triton, run as Python by Triton's interpreter.

The interpreter is a switch of a whole process, read as Triton is imported. So these tests, and those of all backends,
are run once more in a process of their own, which a developer can start as well:
`TRITON_INTERPRET=1 pytest tests/kernels -k triton -W ignore::RuntimeWarning`.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyro_pcflow as pcf
from helpers.comparison import errors, evaluate, example_of
from pyro_pcflow.kernels.gpu import launch
from pyro_pcflow.ops.network import ACTIVATIONS
from pyro_pcflow.transforms.lowering import lower

KERNELS = Path(__file__).parents[1]
interpreted = pytest.mark.skipif(not launch.INTERPRETED, reason="run by test_in_the_interpreter and its like")

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
    assert_exact(*example_of(STACKS[name], clouds=2, points=83), inverse)


@interpreted
@pytest.mark.parametrize("processors", [1, 2, 5, 100])
@pytest.mark.parametrize(("clouds", "points"), [(1, 1), (1, 300), (3, 65), (5, 16), (2, 130)])
def test_however_points_are_cut(monkeypatch, processors, clouds, points):
    """In tiles of any size, several of a block or one, and groups that blocks share or do not."""
    monkeypatch.setattr(launch, "_processors", lambda _: processors)
    monkeypatch.setattr(launch, "BLOCKS_PER_PROCESSOR", 1)
    monkeypatch.setattr(launch, "BLOCKS_PER_PROCESSOR_BACK", 1)
    options = {**STACK, "num_couplings": 1, "hidden_dims": [5], "context_dim": 5, "conditioning": "film"}
    assert_exact(*example_of(options, clouds, points), True)


@interpreted
def test_little_memory_for_the_gradients_of_weights(monkeypatch):
    monkeypatch.setattr(launch, "MAX_PARTS", 1)
    assert_exact(*example_of(STACK, clouds=2, points=300), True)


@interpreted
@pytest.mark.parametrize("inverse", [False, True])
def test_only_what_is_wanted_is_written(inverse):
    clouds, points = 3, 70
    stack, x, context = example_of({**STACK, "context_dim": 5}, clouds, points)
    program, weights, offsets = lower(list(stack.parts), context.squeeze(1), clouds, 3)
    weights, offsets = weights.detach(), offsets.detach()
    out, log_det, saved = launch.forward(program, x, weights, offsets, inverse, True)
    again = launch.forward(program, x, weights, offsets, inverse, False)
    assert torch.equal(again[0], out)
    assert torch.equal(again[1], log_det)
    assert saved.shape == (program.num_moved, clouds, points)
    assert again[2].shape == (0, clouds, points)
    arguments = (program, out, saved, weights, offsets, torch.randn_like(out), torch.randn_like(log_det), inverse)
    all_three = launch.backward(*arguments, True)
    but_weights = launch.backward(*arguments, False)
    assert all_three[1].shape == weights.shape
    assert but_weights[1].shape == (0,)
    assert torch.equal(all_three[0], but_weights[0])
    assert torch.equal(all_three[2], but_weights[2])


# In processes of their own


def run_in_the_interpreter(tests, marks, chosen):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # NumPy warns where a GPU goes on with infinity.
    options = ["-q", "-W", "ignore::RuntimeWarning", "-p", "no:cacheprovider", "--timeout", "1200"]
    command = [sys.executable, "-m", "pytest", str(KERNELS / tests), *options, "-m", marks, "-k", chosen]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


needs_interpreter = pytest.mark.skipif(
    launch.INTERPRETED or not launch.TRITON, reason="needs Triton, and not its interpreter yet"
)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@needs_interpreter
def test_in_the_interpreter():
    """One stack with all that a layer may have, both ways, groups that blocks share, and what is left out."""
    chosen = "(every_kind and two and deep) or (every_kind and film and True) or (cut and 5-16-2) or wanted and 3-70"
    run_in_the_interpreter("gpu/test_launch.py", "not slow and not exhaustive", chosen)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_interpreter
@pytest.mark.parametrize("tests", ["gpu/test_launch.py", "test_operator.py", "test_reference.py", "test_equality.py"])
def test_all_in_the_interpreter(tests):
    # Blocks that run one after the other always repeat themselves, and six hundred calls take hours.
    run_in_the_interpreter(tests, "not slow", "(triton or launch) and not same_bits and not memory_is_flat")


def test_triton_is_imported_only_where_it_runs():
    code = "import sys, pyro_pcflow as pcf; pcf.kernels.available(); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
