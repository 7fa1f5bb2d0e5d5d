"""torch's own machinery over a flow: function transforms, the compiler, data types, pickles and other processes."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import sysconfig
from pathlib import Path

import pyro
import pytest
import torch
import torch.multiprocessing
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call, grad, hessian, stack_module_state, vmap

import pyro_pcflow as pcf
from helpers.conjugate import make_conjugate

BATCH, POINTS, CONTEXT = 5, 7, 2
BASES = ["normal", "conditional", "mixture"]

# Every way to score points (N, D) under a context (C,) with a mask (N,): one number for a cloud.
SCORES = {
    "flow.log_prob": lambda flow, x, c, mask: flow.log_prob(x, c.unsqueeze(-2)).sum(-1),
    "condition": lambda flow, x, c, mask: flow.condition(c.unsqueeze(-2)).log_prob(x).sum(-1),
    "cloud": lambda flow, x, c, mask: flow.cloud(c, num_points=x.shape[-2]).log_prob(x),
    "masked cloud": lambda flow, x, c, mask: flow.cloud(c, mask=mask).log_prob(x),
}
SAMPLES = {
    "condition": lambda flow, c: flow.condition(c).rsample((POINTS,)),
    "cloud": lambda flow, c: flow.cloud(c, num_points=POINTS).rsample(),
}


@pytest.fixture(autouse=True)
def _validation():
    yield
    pyro.enable_validation(True)
    torch._dynamo.reset()


def make_flow(device, base="conditional", seed=0):
    torch.manual_seed(seed)
    flow = pcf.PointCloudFlow(3, CONTEXT, num_couplings=3, hidden_dims=[8], activation="tanh", base=base)
    # Finite differences cannot follow Gaussians that are as narrow as 0.3 makes them.
    pcf.testing.randomize_parameters(flow, 0.05 if base == "mixture" else 0.3)
    flow.normalize(1 + 2 * torch.randn(50, 3))
    return flow.to(device=device, dtype=torch.float64)


def make_data(device, seed=1):
    torch.manual_seed(seed)
    clouds = torch.randn(BATCH, POINTS, 3, dtype=torch.float64, device=device)
    contexts = torch.randn(BATCH, CONTEXT, dtype=torch.float64, device=device)
    sizes = torch.tensor([0, 1, 3, 6, 7], device=device)  # of the clouds
    return clouds, contexts, torch.arange(POINTS, device=device) < sizes.unsqueeze(-1)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_vmap_is_a_loop(score, base, device):
    flow, data = make_flow(device, base), make_data(device)
    loop = torch.stack([score(flow, *row) for row in zip(*data, strict=True)])
    torch.testing.assert_close(vmap(lambda *row: score(flow, *row))(*data), loop)
    # Over contexts alone, and over points alone.
    clouds, contexts, mask = data
    got = vmap(lambda c: score(flow, clouds[4], c, mask[3]))(contexts)
    torch.testing.assert_close(got, torch.stack([score(flow, clouds[4], c, mask[3]) for c in contexts]))
    got = vmap(lambda x: score(flow, x, contexts[4], mask[3]))(clouds)
    torch.testing.assert_close(got, torch.stack([score(flow, x, contexts[4], mask[3]) for x in clouds]))


@pytest.mark.parametrize("draw", SAMPLES.values(), ids=SAMPLES.keys())
def test_vmap_of_samples_is_a_loop(draw, device):
    """The noise has no batch of contexts, so that torch offers `randomness="same"` alone."""
    flow, (_, contexts, _) = make_flow(device, "normal"), make_data(device)
    torch.manual_seed(3)
    got = vmap(lambda c: draw(flow, c), randomness="same")(contexts)
    loop = []
    for context in contexts:
        torch.manual_seed(3)
        loop.append(draw(flow, context))
    torch.testing.assert_close(got, torch.stack(loop))


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_gradient_and_hessian_in_closed_form(score, device):
    """`log p(x | c)` is quadratic: its gradient is `W' S^-2 sum(u - b - W c)`, its Hessian `-n W' S^-2 W`."""
    known = make_conjugate()
    clouds, contexts, mask = make_data("cpu")
    if score is not SCORES["masked cloud"]:
        mask = torch.ones_like(mask)
    weighted = known.loc.T / known.scale.square()
    residual = known._noise(clouds)[0] - known.bias - (contexts @ known.loc.T).unsqueeze(-2)
    gradients = (residual * mask.unsqueeze(-1)).sum(-2) @ weighted.T
    hessians = -mask.sum(-1)[:, None, None] * (weighted @ known.loc)

    flow = known.flow.to(device)
    data = tuple(tensor.to(device) for tensor in (clouds, contexts, mask))
    of_context = lambda c, x, m: score(flow, x, c, m)  # noqa: E731
    arguments = (data[1], data[0], data[2])
    torch.testing.assert_close(grad(of_context)(*(row[3] for row in arguments)), gradients[3].to(device))
    torch.testing.assert_close(vmap(grad(of_context))(*arguments), gradients.to(device))
    torch.testing.assert_close(vmap(hessian(of_context))(*arguments), hessians.to(device))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_gradient_and_hessian_against_finite_differences(score, base, device):
    """Here the couplings depend on the context too."""
    flow = make_flow(device, base)
    x, context, mask = (row[3] for row in make_data(device))
    of_context = lambda c: score(flow, x, c, mask)  # noqa: E731
    slope = grad(of_context)
    step = 1e-5 * torch.eye(CONTEXT, dtype=torch.float64, device=device)
    by_difference = torch.stack([(of_context(context + h) - of_context(context - h)) / 2e-5 for h in step])
    torch.testing.assert_close(slope(context), by_difference, rtol=1e-6, atol=1e-6)
    by_difference = torch.stack([(slope(context + h) - slope(context - h)) / 2e-5 for h in step])
    torch.testing.assert_close(hessian(of_context)(context), by_difference, rtol=1e-6, atol=1e-6)


class Scorer(nn.Module):
    """What functional_call needs: a module that is called."""

    def __init__(self, flow, score):
        super().__init__()
        self.flow = flow
        self.score = score

    def forward(self, *row):
        return self.score(self.flow, *row)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_functional_call_with_other_weights(score, device):
    flow, other, (x, context, mask) = make_flow(device), make_flow(device, seed=5), make_data(device)
    for flow_of_data in (flow, other):
        # A fresh sample, whose density the flow would remember, had its weights not changed.
        sample = flow.cloud(context, num_points=POINTS).sample()
        expected = score(flow_of_data, sample.clone(), context, mask)
        state = {f"flow.{name}": value for name, value in flow_of_data.state_dict().items() if "extra" not in name}
        with torch.no_grad():
            torch.testing.assert_close(functional_call(Scorer(flow, score), state, (sample, context, mask)), expected)
        torch.testing.assert_close(score(flow, x, context, mask), score(make_flow(device), x, context, mask))


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_an_ensemble_by_vmap_is_a_loop(score, device):
    members = [Scorer(make_flow(device, seed=seed), score) for seed in range(3)]
    state = stack_module_state(members)
    row = make_data(device)
    got = vmap(lambda *state: functional_call(members[0], state, row))(*state)
    torch.testing.assert_close(got, torch.stack([member(*row) for member in members]))


def test_plain_flow_believes_no_memory_under_other_weights(device):
    """A flow without context keeps its memory on itself, where functional_call finds it."""
    flow, other = (
        pcf.testing.randomize_parameters(pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])).to(device).double()
        for _ in range(2)
    )
    scorer = Scorer(flow, lambda flow, points: flow.condition().log_prob(points))
    state = {f"flow.{name}": parameter for name, parameter in other.named_parameters()}
    with torch.no_grad():
        sample = flow.condition().sample((9,))
        torch.testing.assert_close(functional_call(scorer, state, (sample,)), other.log_prob(sample))
        torch.testing.assert_close(scorer(sample), flow.log_prob(sample))


def test_nothing_of_a_function_transform_is_left_behind(device):
    """A tensor inside vmap stands for a batch; remembered, it would leak out."""
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).to(device)
    x = torch.randn(4, 6, 3, device=device)
    vmap(lambda x: flow.condition().log_prob(x))(x)
    vmap(lambda x: flow.transform(flow.transform.inv(x)))(x)
    grad(lambda x: flow.transform.inv(x).square().sum())(x)
    assert flow.transform._called is None
    assert flow.transform._inverted is None
    copy.deepcopy(flow)


def compiled(function, backend, **options):
    # torch switches off the validation of all distributions as it compiles, but once a process: see the test of it.
    torch.distributions.Distribution.set_default_validate_args(False)
    return torch.compile(function, fullgraph=True, backend=backend, **options)


def value_and_gradients(function, flow, *tensors):
    """The value, and its gradient in every floating tensor and weight."""
    leaves = [tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in tensors]
    value = function(*leaves)
    wanted = [*flow.parameters(), *(leaf for leaf in leaves if leaf.requires_grad)]
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
    gradients = torch.autograd.grad((weights * value).sum(), wanted, allow_unused=True, materialize_grads=True)
    return value.detach(), gradients


def check_compiled_score(flow, score, device, backend):
    function = lambda *row: score(flow, *row)  # noqa: E731
    fast = compiled(function, backend)
    first, second = make_data(device), make_data(device, seed=2)

    def check(data):
        value, gradients = value_and_gradients(fast, flow, *data)
        torch.testing.assert_close((value, gradients), value_and_gradients(function, flow, *data))
        return value

    check(first)
    before = check(second)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.1)
    check(second)
    for parameter in flow.parameters():
        parameter.data.mul_(1.1)  # as Pyro's ClippedAdam writes
    assert (check(second) - before).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("score", "backend"),
    [
        *(pytest.param(score, "eager", id=f"{name}-eager") for name, score in SCORES.items()),
        *(
            pytest.param(
                score,
                "aot_eager",
                id=f"{name}-aot_eager",
                marks=() if name == "masked cloud" else pytest.mark.exhaustive,
            )
            for name, score in SCORES.items()
        ),
    ],
)
def test_compiled_score_is_the_eager_one(score, backend, device):
    check_compiled_score(make_flow(device), score, device, backend)


def check_compiled_samples(flow, draw, device, backend):
    def seeded(function):
        def call(context):
            torch.manual_seed(4)
            return function(context)

        return call

    function = lambda c: draw(flow, c)  # noqa: E731
    fast = compiled(function, backend)
    for seed in (1, 2):
        _, contexts, _ = make_data(device, seed)
        got = value_and_gradients(seeded(fast), flow, contexts)
        torch.testing.assert_close(got, value_and_gradients(seeded(function), flow, contexts))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.mul_(1.1)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("draw", SAMPLES.values(), ids=SAMPLES.keys())
def test_compiled_samples_are_the_eager_ones(draw, backend, device):
    check_compiled_samples(make_flow(device), draw, device, backend)


@pytest.mark.exhaustive  # the compiler takes longer than all other tests of this file
@pytest.mark.skipif(
    not (shutil.which(os.environ.get("CXX", "g++")) and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason="torch's default backend needs a C++ compiler and Python's headers",
)
def test_compiled_by_the_default_backend(device):
    check_compiled_score(make_flow(device), SCORES["masked cloud"], device, "inductor")


@pytest.mark.parametrize(
    ("score", "training"),
    [
        ("condition", True),
        pytest.param("condition", False, marks=pytest.mark.exhaustive),
        pytest.param("masked cloud", False, marks=pytest.mark.exhaustive),
        pytest.param("masked cloud", True, marks=pytest.mark.exhaustive),
    ],
)
def test_compiled_score_evaluates_each_network_once(score, training, device):
    """As many matrix products in the forward graph as there are linear layers."""
    flow, data = make_flow(device), make_data(device)
    fast = compiled(lambda *row: SCORES[score](flow, *row), counting_backend(counts := []))
    with torch.set_grad_enabled(training):
        fast(*data)
    assert counts == [sum(isinstance(module, nn.Linear) for module in flow.modules())]


def counting_backend(counts):
    def count(graph, inputs):
        products = ("aten.mm.default", "aten.addmm.default", "aten.bmm.default")
        counts.append(sum(str(node.target) in products for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    return aot_autograd(fw_compiler=count, bw_compiler=lambda graph, inputs: make_boxed_func(graph.forward))


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad])
def test_each_network_once_where_nothing_may_be_remembered(around, monkeypatch, device):
    calls, forward = [], pcf.nn.Conditioner.forward
    monkeypatch.setattr(pcf.nn.Conditioner, "forward", lambda self, *rest: calls.append(1) or forward(self, *rest))
    flow, (x, contexts, mask) = make_flow(device), make_data(device)
    with around():
        flow.cloud(contexts, mask=mask).log_prob(x)
    assert len(calls) == 3
    vmap(lambda x: flow.condition(contexts[0]).log_prob(x))(x)
    assert len(calls) == 6


def test_compiled_after_eager_use(device):
    """What an eager call remembered is neither believed nor in the way."""
    flow = pcf.testing.randomize_parameters(pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])).to(device).double()
    fast = compiled(lambda x: flow.condition().log_prob(x), "eager")
    with torch.no_grad():
        sample = flow.condition().sample((9,))
        torch.testing.assert_close(fast(sample), flow.log_prob(sample))
        for parameter in flow.parameters():
            parameter.add_(0.1)
        torch.testing.assert_close(fast(sample), flow.log_prob(sample))
        torch.testing.assert_close(flow.condition().log_prob(sample), flow.log_prob(sample))


def test_compiled_code_may_walk_the_parameters(device):
    """A penalty on the weights belongs to a loss; Pyro's own hash of a module cannot be traced."""
    flow, (x, contexts, _) = make_flow(device), make_data(device)

    def loss(x, contexts):
        penalty = sum(parameter.square().sum() for parameter in flow.parameters())
        return penalty - flow.cloud(contexts, num_points=POINTS).log_prob(x).mean()

    torch.testing.assert_close(compiled(loss, "eager")(x, contexts), loss(x, contexts))


@pytest.mark.slow
def test_compiled_for_any_number_of_points(device):
    flow, context = make_flow(device), torch.randn(CONTEXT, dtype=torch.float64, device=device)
    counter = CompileCounter()
    score = lambda x: flow.cloud(context, num_points=x.shape[-2]).log_prob(x)  # noqa: E731
    fast = compiled(score, counter, dynamic=True)
    for num_points in (5, 8, 100):
        x = torch.randn(num_points, 3, dtype=torch.float64, device=device)
        torch.testing.assert_close(fast(x), score(x))
    assert counter.frame_count == 1


def test_torch_switches_validation_off_when_it_compiles(device):
    """Once a process, at its first compilation. Shapes are told all the same, and pyro brings the rest back."""
    flow, (x, contexts, _) = make_flow(device, "normal"), make_data(device)
    density = lambda x: flow.condition(contexts.unsqueeze(-2)).log_prob(x)  # noqa: E731
    bad = x.clone()
    bad[0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="finite"):
        density(bad)
    torch._dynamo.eval_frame.TorchPatcher.patch.cache_clear()  # as in a fresh process
    torch.compile(density, fullgraph=True, backend="eager")(x)
    assert not density(bad).isfinite().all()
    with pytest.raises(ValueError, match=r"\(\*batch, 3\)"):
        density(x[..., :2])
    pyro.enable_validation(True)
    with pytest.raises(ValueError, match="finite"):
        density(bad)


@pytest.mark.parametrize("base", BASES)
def test_compiled_where_validation_is_on(base, device):
    """pyro.validation_enabled and MCMC switch it on again."""
    flow, (x, contexts, _) = make_flow(device, base), make_data(device)
    density = lambda x: flow.condition(contexts.unsqueeze(-2)).log_prob(x)  # noqa: E731
    fast = compiled(density, "eager")
    pyro.enable_validation(True)
    torch.testing.assert_close(fast(x), density(x))


@pytest.mark.parametrize("base", BASES)
def test_float64_stays_float64(base, device):
    flow, (x, contexts, mask) = make_flow(device, base), make_data(device)
    cloud = flow.cloud(contexts, mask=mask)
    seen = [cloud.rsample()] if cloud.has_rsample else []
    seen += [cloud.sample(), cloud.log_prob(x), flow.log_prob(x, contexts.unsqueeze(-2))]
    seen += [
        flow.condition(contexts).sample(),
        flow.trajectory(4, contexts),
        flow.condition(contexts).base_dist.sample(),
    ]
    seen += [flow.cloud(contexts, num_points=0).log_prob(x[:, :0])]
    assert {tensor.dtype for tensor in seen} == {torch.float64}


def test_narrower_types_are_promoted_and_wider_ones_refused(device):
    flow, (x, contexts, _) = make_flow(device), make_data(device)
    expected = flow.cloud(contexts.float().double(), num_points=POINTS).log_prob(x.float().double())
    got = flow.cloud(contexts.float(), num_points=POINTS).log_prob(x.float())
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected)
    flow.float()
    for act in (
        lambda: flow.cloud(contexts.float(), num_points=POINTS).log_prob(x),
        lambda: flow.log_prob(x, contexts.float().unsqueeze(-2)),
        lambda: flow.condition(contexts),
    ):
        with pytest.raises(TypeError, match=r"torch.float32, or a narrower one, got torch.float64: .*flow.to\("):
            act()


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("float", "double"),
        ("double", "float"),
        pytest.param("cpu", "cuda", marks=NO_GPU),
        pytest.param("cuda", "cpu", marks=NO_GPU),
    ],
)
def test_a_move_between_sampling_and_scoring(before, after):
    """A flow moves in place, under the feet of what it remembers."""
    flow = pcf.testing.randomize_parameters(pcf.PointCloudFlow(3, num_couplings=3, hidden_dims=[8], activation="tanh"))
    exact = copy.deepcopy(flow).double()
    getattr(flow, before)()
    with torch.no_grad():
        sample = flow.condition().sample((9,))
        expected = exact.log_prob(sample.cpu().double())
        getattr(flow, after)()
        place = next(flow.parameters())
        moved = sample.to(place)
        for score in (flow.condition().log_prob, flow.cloud(num_points=9).log_prob, flow.log_prob):
            got = score(moved)
            assert (got.dtype, got.device) == (place.dtype, place.device)
            total = expected.sum() if got.dim() == 0 else expected
            torch.testing.assert_close(got.cpu().double(), total, rtol=1e-5, atol=1e-5)
        if (before, after) == ("float", "double"):  # narrower points are promoted
            torch.testing.assert_close(flow.condition().log_prob(sample), expected, rtol=1e-5, atol=1e-5)
        else:
            with pytest.raises((TypeError, RuntimeError), match=r"data type|same device"):
                flow.condition().log_prob(sample)
        getattr(flow, before)()
        got = flow.condition().log_prob(sample)
        torch.testing.assert_close(got.cpu().double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_pickled_densities(base, device):
    flow, (x, contexts, mask) = make_flow(device, base), make_data(device)
    for density, value in (
        (flow.condition(contexts), x[:, 0]),
        (flow.cloud(contexts, num_points=POINTS), x),
        (flow.cloud(contexts, mask=mask), x),
        (flow.cloud(contexts, mask=mask).expand((2, BATCH)), x),
    ):
        expected = density.log_prob(value)
        density.sample()
        twin = pickle.loads(pickle.dumps(density))
        assert (twin.batch_shape, twin.event_shape) == (density.batch_shape, density.event_shape)
        assert torch.equal(twin.log_prob(value), expected)
        torch.manual_seed(6)
        sample = density.sample()
        torch.manual_seed(6)
        assert torch.equal(twin.sample(), sample)


def score_in_a_worker(density, value, pipe):
    # As in torch's own DataLoader: a forked process must not enter a pool of threads that stayed behind in its parent.
    torch.set_num_threads(1)
    pipe.send(density.log_prob(value).tolist())


def in_a_worker(method, target, *arguments):
    """A pipe to a started process."""
    context = torch.multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    return here, process


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        # Python 3.12 warns of every fork in a process with threads, of which torch always has some.
        pytest.param("fork", marks=pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")),
        pytest.param("spawn", marks=pytest.mark.exhaustive),
    ],
)
def test_workers_score_clouds(method):
    flow, (x, contexts, mask) = make_flow("cpu").requires_grad_(False), make_data("cpu")
    density = flow.cloud(contexts, mask=mask)
    density.sample()
    pipe, process = in_a_worker(method, score_in_a_worker, density, x)
    assert pipe.poll(100), "the worker did not answer"
    torch.testing.assert_close(torch.tensor(pipe.recv(), dtype=torch.float64), density.log_prob(x))
    process.join(100)
    assert process.exitcode == 0


def score_after_a_signal(flow, pipe):
    torch.set_num_threads(1)
    with torch.no_grad():
        sample = flow.condition().sample((9,))
        pipe.send(flow.condition().log_prob(sample).tolist())
        pipe.recv()
        pipe.send((sample.tolist(), flow.condition().log_prob(sample).tolist()))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # see above
def test_a_worker_sees_weights_change_in_shared_memory():
    """Another process writes; in the worker no weight changes its version, only its value."""
    flow = pcf.testing.randomize_parameters(pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])).double()
    flow.requires_grad_(False).share_memory()
    pipe, process = in_a_worker("fork", score_after_a_signal, flow)
    assert pipe.poll(100), "the worker did not answer"
    before = torch.tensor(pipe.recv(), dtype=torch.float64)
    for parameter in flow.parameters():
        parameter.mul_(1.5)
    pipe.send("go")
    assert pipe.poll(100), "the worker did not answer"
    sample, after = (torch.tensor(part, dtype=torch.float64) for part in pipe.recv())
    process.join(100)
    torch.testing.assert_close(after, flow.log_prob(sample))
    assert (after - before).abs().max() > 0.1
