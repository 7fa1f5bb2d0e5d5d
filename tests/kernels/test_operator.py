"""The operator under everything that torch may do to a stack, on every backend."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
from pathlib import Path

import pyro
import pytest
import torch

import pyro_pcflow as pcf
from helpers.comparison import BACKENDS, errors, evaluate, example
from pyro_pcflow.kernels import operator
from pyro_pcflow.kernels.operator import couplings
from pyro_pcflow.transforms import coupling_stack
from pyro_pcflow.transforms.lowering import lower


def count_runs(monkeypatch, name):
    """How often a backend runs a stack from now on."""
    calls = []
    backend = operator.BACKENDS[name]

    def forward(*arguments):
        calls.append(arguments)
        return backend.forward(*arguments)

    monkeypatch.setitem(operator.BACKENDS, name, operator.Backend(forward, backend.backward))
    return calls


@pytest.mark.parametrize("shape", [(0, 10, 3), (4, 0, 3), (4, 1, 3), (2, 3, 50, 3)])
def test_odd_shapes(backend, shape):
    stack, _, _ = example(backend)
    context = torch.randn(*shape[:-2], 1, 5)
    x = torch.randn(shape)
    exact = evaluate(copy.deepcopy(stack).double(), x.double(), context.double(), True)
    value, gradient = errors(evaluate(stack, x, context, True), exact)
    assert value < 1e-5
    assert gradient < 1e-5


@pytest.mark.parametrize(
    ("points", "context"),
    [
        ((50,), (4, 1)),
        ((4, 50), (1,)),
        ((50, 4), (4,)),
        ((2, 50, 4), (2, 1, 1)),
        ((6, 50, 4), (6, 1, 4)),
        ((5, 4), (5, 4)),
    ],
)
def test_contexts_broadcast_in_any_dimension(backend, points, context):
    stack, _, _ = example(backend)
    x, c = torch.randn(*points, 3), torch.randn(*context, 5)
    got = stack.inverse_and_log_det(x, c)
    pcf.kernels.set_backend(stack, "plain")
    torch.testing.assert_close(got, stack.inverse_and_log_det(x, c), rtol=1e-5, atol=1e-5)


def test_there_and_back(backend):
    stack, x, context = example(backend)
    noise, log_det = stack.inverse_and_log_det(x, context)
    back, other = stack.transform_and_log_det(noise, context)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other, -log_det, rtol=1e-4, atol=1e-4)


def test_far_points_keep_their_features(backend):
    """Sines of large angles, where a reduction of the argument must not lose all digits."""
    stack, x, context = example(backend, num_couplings=1, num_frequencies=6)
    x = x * torch.logspace(0, 6, x.shape[1]).view(1, -1, 1)
    exact = copy.deepcopy(stack).double().inverse_and_log_det(x.double(), context.double())
    for got, expected in zip(stack.inverse_and_log_det(x, context), exact, strict=True):
        error = (got - expected).abs() / (1 + expected.abs())
        assert error.max() < 1e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_point_that_is_no_number_stays_one_and_alone(backend, bad):
    for activation in ("relu", "silu", "tanh", "gelu", "leaky_relu"):
        stack, x, context = example(backend, activation=activation, num_frequencies=0)
        clean = stack.inverse_and_log_det(x, context)
        x[1, 7] = bad
        noise, log_det = stack.inverse_and_log_det(x, context)
        assert not torch.isfinite(noise[1, 7]).all() or not torch.isfinite(log_det[1, 7])
        others = torch.ones(x.shape[:-1], dtype=torch.bool)
        others[1, 7] = False
        torch.testing.assert_close(noise[others], clean[0][others])
        torch.testing.assert_close(log_det[others], clean[1][others])


def test_weights_that_are_no_numbers_are_not_hidden(backend):
    stack, x, context = example(backend, activation="relu")
    with torch.no_grad():
        stack.parts[1].conditioner.hidden[0].weight[0, 0] = float("nan")
    assert not stack.inverse_and_log_det(x, context)[1].isfinite().any()


def test_gradients_of_gradients(backend):
    stack, x, context = example(backend, activation="tanh", points=70)
    exact_stack, exact_x, exact_context = copy.deepcopy(stack).double(), x.double(), context.double()

    def second(stack, x, context):
        x, context = x.clone().requires_grad_(), context.clone().requires_grad_()
        log_det = stack.inverse_and_log_det(x, context)[1]
        (first,) = torch.autograd.grad(log_det.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, context, *stack.parameters()], allow_unused=True)

    for got, expected in zip(second(stack, x, context), second(exact_stack, exact_x, exact_context), strict=True):
        assert (got - expected).norm() <= 1e-4 * expected.norm() + 1e-6


def test_only_what_is_wanted_gets_a_gradient(backend):
    """Latents under frozen weights, as in MCMC."""
    stack, x, context = example(backend)
    stack.requires_grad_(False)
    context.requires_grad_()
    stack.inverse_and_log_det(x, context)[1].sum().backward()
    assert context.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in stack.parameters())


def test_the_same_bits_again(backend):
    stack, x, context = example(backend, clouds=7, points=1000)
    first, second = (evaluate(stack, x, context, True) for _ in range(2))
    assert torch.equal(first[0], second[0])
    for name, gradient in first[2].items():
        assert torch.equal(gradient, second[2][name]), name


def test_no_point_depends_on_another(backend):
    stack, x, context = example(backend)
    noise = stack.inverse_and_log_det(x, context)[0]
    part = stack.inverse_and_log_det(x[:, 10:61], context)[0]
    torch.testing.assert_close(part, noise[:, 10:61], rtol=1e-6, atol=1e-6)


def test_a_stack_with_other_parts(backend, monkeypatch):
    """Layers that the kernel does not know are evaluated as ever, the runs of couplings between them fast."""
    stack = coupling_stack(3, num_couplings=3, hidden_dims=[8], lu_linear=True, act_norm=True)
    pcf.testing.randomize_parameters(stack, 0.1)
    x = torch.randn(200, 3)
    stack.inverse_and_log_det(x)
    expected = stack.inverse_and_log_det(x)
    pcf.kernels.set_backend(stack, backend)
    calls = count_runs(monkeypatch, backend)
    torch.testing.assert_close(stack.inverse_and_log_det(x), expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == 3


def test_whatever_is_watched_or_changed_is_called(backend, monkeypatch):
    stack, x, context = example(backend)
    calls = count_runs(monkeypatch, backend)
    seen = []
    handle = stack.parts[1].conditioner.register_forward_hook(lambda *_: seen.append(1))
    stack.inverse_and_log_det(x, context)
    assert seen == [1]
    assert [len(arguments[0].couplings) for arguments in calls] == [2, 1]
    handle.remove()

    class Other(type(stack.parts[0])):
        pass

    stack.parts[0].__class__ = Other
    calls.clear()
    stack.inverse_and_log_det(x, context)
    assert [len(arguments[0].couplings) for arguments in calls] == [3]


def test_vmap_falls_back(backend):
    stack, x, context = example(backend)
    expected = stack.inverse_and_log_det(x, context)[1]
    got = torch.func.vmap(lambda x, c: stack.inverse_and_log_det(x, c)[1])(x, context)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_forward_derivatives_fall_back(backend):
    stack, x, context = example(backend)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(stack.inverse_and_log_det(dual, context)[1]).tangent
    assert tangent.abs().sum() > 0


def test_copies_and_pickles_after_use(backend):
    stack, x, context = example(backend)
    expected = stack.inverse_and_log_det(x, context)[1]
    for twin in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert twin.backend == backend
        assert torch.equal(twin.inverse_and_log_det(x, context)[1], expected)


def _score_in_child(stack, x, context, queue):
    queue.put(stack.inverse_and_log_det(x, context)[1].sum().item())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_worker(backend):
    """As in a DataLoader, which leaves a worker one thread of torch; the parent has used all of them."""
    stack, x, context = example(backend, points=1000)
    stack.requires_grad_(False)
    expected = stack.inverse_and_log_det(x, context)[1].sum().item()
    forking = multiprocessing.get_context("fork")
    queue = forking.Queue()
    worker = forking.Process(target=_child, args=(stack, x, context, queue))
    worker.start()
    got = queue.get(timeout=60)
    worker.join(60)
    assert got == pytest.approx(expected, rel=1e-5)


def _child(stack, x, context, queue):
    torch.set_num_threads(1)
    _score_in_child(stack, x, context, queue)


@pytest.fixture
def _validation():
    """torch switches the validation of distributions off as it compiles."""
    yield
    pyro.enable_validation(True)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_validation")
@pytest.mark.parametrize(
    "backend",
    [BACKENDS[-1], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in BACKENDS[:-1])],
    indirect=True,
)
def test_compiled_by_torch(backend):
    stack, x, context = example(backend)
    expected = evaluate(stack, x, context, True)
    compiled = torch.compile(stack.inverse_and_log_det, fullgraph=True)
    x, context = x.clone().requires_grad_(), context.clone().requires_grad_()
    value, log_det = compiled(x, context)
    torch.testing.assert_close(value.detach(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det.detach(), expected[1], rtol=1e-5, atol=1e-5)
    (value.sum() + log_det.sum()).backward()
    pcf.kernels.set_backend(stack, "plain")
    other = x.detach().clone().requires_grad_()
    sum(part.sum() for part in stack.inverse_and_log_det(other, context.detach())).backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_the_operator_is_a_good_one(backend):
    """torch's own checks of an operator: schema, fake implementation, autograd registration."""
    stack, x, context = example(backend)
    program, weights, offsets = lower(list(stack.parts), context.squeeze(1), len(x), 3)
    arguments = (
        x.requires_grad_(),
        weights.detach().requires_grad_(),
        offsets.detach().requires_grad_(),
        program.code(),
        program.limits(),
        True,
        True,
        backend,
    )
    torch.library.opcheck(
        couplings, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
    )


def test_memory_is_flat_over_many_calls(backend):
    stack, x, context = example(backend, points=64)

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def call(times):
        for _ in range(times):
            view = stack.condition(context.clone().requires_grad_())
            view.inverse_and_log_det(x)[1].sum().backward()

    call(100)
    before = resident()
    call(500)
    # A kilobyte for each call; the coordinates alone of a call are two.
    assert resident() - before < 500 * 1024
