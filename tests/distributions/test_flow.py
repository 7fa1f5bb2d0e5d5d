"""The flow over points: a density in the data's units, with a true batch shape."""

from __future__ import annotations

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_pcflow as pcf

SMALL = {"num_couplings": 4, "hidden_dims": [8], "activation": "tanh"}


def make_flow(device="cpu", dtype=torch.float64, scale=0.3, seed=0, **options):
    torch.manual_seed(seed)
    flow = pcf.PointCloudFlow(**{**SMALL, **options})
    return pcf.testing.randomize_parameters(flow, scale).to(device=device, dtype=dtype)


def noise_density(flow, context):
    """What the noise is, in torch's own words."""
    if flow.config["base"] == "normal":
        zero = flow.base.zero
        return dist.Normal(zero, torch.ones_like(zero)).to_event(1)
    loc, log_scale = flow.base.network(context).chunk(2, -1)
    return dist.Normal(loc, log_scale.tanh().exp()).to_event(1)


@pytest.mark.parametrize("base", ["normal", "conditional"])
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_density_against_the_jacobian(dim, base, device):
    """Change of variables with autograd's Jacobian, from the data's units down to the noise."""
    flow = make_flow(device, point_dim=dim, context_dim=5, base=base)
    flow.normalize(4 + 3 * torch.randn(100, dim, dtype=torch.float64, device=device))
    context = torch.randn(5, dtype=torch.float64, device=device)
    density = flow.condition(context)

    def to_noise(point):
        for transform in reversed(density.transforms):
            point = transform.inv(point)
        return point

    for point in 4 + 3 * torch.randn(3, dim, dtype=torch.float64, device=device):
        _, log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(to_noise, point))
        expected = noise_density(flow, context).log_prob(to_noise(point)) + log_det
        torch.testing.assert_close(density.log_prob(point), expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(flow.log_prob(point, context), expected, rtol=1e-8, atol=1e-8)


def test_density_changes_with_the_units_as_it_must(device):
    points = torch.randn(500, 3, dtype=torch.float64, device=device)
    flow = make_flow(device)
    flow.normalize(points)
    expected = flow.condition().log_prob(points)
    stretched = copy.deepcopy(flow)
    stretched.normalize(1000 * points - 7)
    got = stretched.condition().log_prob(1000 * points - 7)
    torch.testing.assert_close(got, expected - 3 * torch.log(torch.tensor(1000.0, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("context_shape", "value_shape", "batch_shape"),
    [
        ((5,), (3,), ()),
        ((4, 5), (3,), (4,)),
        ((4, 5), (4, 3), (4,)),
        ((4, 1, 5), (4, 7, 3), (4, 1)),
        ((1, 5), (9, 4, 3), (1,)),
        ((2, 1, 4, 5), (6, 4, 3), (2, 1, 4)),
        ((3, 1, 1, 5), (4, 7, 3), (3, 1, 1)),
        ((0, 5), (3,), (0,)),
    ],
)
@pytest.mark.parametrize("base", ["normal", "conditional"])
def test_batch_shape_is_that_of_the_context(context_shape, value_shape, batch_shape, base, device, dtype):
    flow = make_flow(device, dtype, context_dim=5, base=base)
    density = flow.condition(torch.randn(context_shape, device=device, dtype=dtype))
    assert density.batch_shape == batch_shape
    assert density.event_shape == (3,)
    assert density.has_rsample
    assert density.support.event_dim == 1
    assert density.sample((2,)).shape == (2, *batch_shape, 3)
    if 0 not in batch_shape:
        value = torch.randn(value_shape, device=device, dtype=dtype)
        expected = torch.broadcast_shapes(value_shape[:-1], batch_shape)
        assert density.log_prob(value).shape == expected
        assert flow.log_prob(value, density_context(density)).shape == expected
        wide = density.expand((8, *batch_shape))
        assert wide.batch_shape == (8, *batch_shape)
        assert wide.rsample().shape == (8, *batch_shape, 3)


def density_context(density):
    return density.transforms[0].context


def test_each_context_acts_on_its_own_points(device):
    flow = make_flow(device, context_dim=5, base="conditional")
    contexts = torch.randn(4, 5, dtype=torch.float64, device=device)
    points = torch.randn(4, 3, dtype=torch.float64, device=device)
    together = flow.condition(contexts).log_prob(points)
    apart = torch.stack([flow.condition(c).log_prob(p) for c, p in zip(contexts, points, strict=True)])
    torch.testing.assert_close(together, apart)
    assert together.unique().numel() == 4


def test_copies_after_use(device, dtype):
    flow = make_flow(device, dtype, context_dim=5)
    flow.normalize(torch.randn(50, 3) * 2)
    context, points = (
        torch.randn(5, device=device, dtype=dtype),
        torch.randn(9, 3, device=device, dtype=dtype),
    )
    density = flow.condition(context)
    expected = density.log_prob(points)
    density.rsample()
    assert torch.equal(copy.deepcopy(flow).condition(context).log_prob(points), expected)
    assert torch.equal(pickle.loads(pickle.dumps(flow)).condition(context).log_prob(points), expected)
    assert len(pickle.dumps(flow)) < 60_000
    twin = pcf.PointCloudFlow(**flow.config).to(device=device, dtype=dtype)
    twin.load_state_dict(flow.state_dict())
    assert twin.normalized
    assert torch.equal(twin.condition(context).log_prob(points), expected)
    assert flow.double().condition(context.double()).log_prob(points.double()).dtype == torch.float64


def test_nothing_of_size_points_times_context_is_allocated(dtype):
    """The largest tensor that scoring makes is one of features or of weights, though the context is wide."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    sizes.append(tensor.untyped_storage().nbytes() // dtype.itemsize)
            return out

    flow = make_flow("cpu", dtype, context_dim=800, base="conditional")
    clouds, contexts = torch.randn(2, 500, 3, dtype=dtype), torch.randn(2, 800, dtype=dtype)
    with Sizes():
        flow.cloud(contexts, num_points=500).log_prob(clouds).sum().backward()
        flow.cloud(contexts, num_points=500).sample()
    weights = sum(tensor.numel() for tensor in [*flow.parameters(), *flow.buffers(), contexts])
    features = 2 * (1 + 2 * 3)
    assert max(sizes) <= max(2 * 500 * features, weights) < 2 * 500 * 800 / 10


def test_in_pyro_module_and_param_store(device, dtype):
    pyro.clear_param_store()
    flow = make_flow(device, dtype)
    pyro.module("flow", flow)
    assert len(pyro.get_param_store()) == len(list(flow.named_parameters()))

    class Model(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.flow = flow

        def forward(self, points):
            with pyro.plate("points", len(points)):
                return pyro.sample("x", self.flow.condition(), obs=points)

    points = torch.randn(11, 3, device=device, dtype=dtype)
    trace = pyro.poutine.trace(Model()).get_trace(points)
    torch.testing.assert_close(trace.log_prob_sum(), flow.log_prob(points).sum())


def test_pyros_own_compositions(device, dtype):
    """Stacks take part in Pyro's iterated, ComposeTransformModule and conditional composition."""
    P = dist.transforms
    make = lambda: pcf.testing.randomize_parameters(pcf.transforms.affine_point_coupling(3, hidden_dims=[8]))  # noqa: E731
    composed = dist.transforms.iterated(3, make).to(device=device, dtype=dtype)
    assert isinstance(composed, dist.torch_transform.ComposeTransformModule)
    noise = dist.Normal(torch.zeros(3, device=device, dtype=dtype), 1.0).to_event(1)
    points = torch.randn(10, 3, device=device, dtype=dtype)
    mixed = dist.torch_transform.ComposeTransformModule([composed, P.planar(3).to(device=device, dtype=dtype)])
    assert len(list(mixed.parameters())) == len(list(composed.parameters())) + 3
    by_stack = pcf.transforms.CouplingStack(list(composed.parts)).inverse_and_log_det(points)
    expected = noise.log_prob(by_stack[0]) + by_stack[1]
    torch.testing.assert_close(dist.TransformedDistribution(noise, [composed]).log_prob(points), expected)

    stack = pcf.transforms.coupling_stack(3, num_couplings=2, context_dim=4, hidden_dims=[8]).to(noise.mean)
    pcf.testing.randomize_parameters(stack)
    both = dist.conditional.ConditionalComposeTransformModule([composed, stack])
    context = torch.randn(4, device=device, dtype=dtype)
    x, log_det = stack.condition(context).inverse_and_log_det(points)
    inner = dist.TransformedDistribution(noise, [composed]).log_prob(x)
    conditional = dist.ConditionalTransformedDistribution(noise, [both])
    torch.testing.assert_close(conditional.condition(context).log_prob(points), inner + log_det)


@settings(max_examples=20)
@given(
    batch=st.lists(st.integers(1, 3), max_size=3),
    num_points=st.integers(0, 5),
    dim=st.sampled_from([2, 3, 6]),
)
def test_trajectory_ends_where_sampling_ends(batch, num_points, dim):
    flow = make_flow(point_dim=dim, context_dim=2)
    flow.normalize(3 + torch.randn(50, dim, dtype=torch.float64))
    context = torch.randn(*batch, 2, dtype=torch.float64)
    torch.manual_seed(5)
    states = flow.trajectory(num_points, context)
    torch.manual_seed(5)
    expected = flow.cloud(context, num_points=num_points).sample()
    assert states.shape == (5, *batch, num_points, dim)
    torch.testing.assert_close(states[-1], expected)


def test_repr_shows_masks_widths_and_parameters():
    flow = pcf.PointCloudFlow(3, 8, num_couplings=3, hidden_dims=[16, 24])
    text = repr(flow)
    parameters = sum(p.numel() for p in flow.parameters())
    assert f"{parameters:,} parameters" in text
    assert "mask=>==" in text
    assert "mask==>=" in text
    assert "-> 16 -> 24 ->" in text
    assert "bias of 8" in text


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: pcf.PointCloudFlow(1), ValueError, "at least 2"),
        (lambda: pcf.PointCloudFlow(num_couplings=0), ValueError, "num_couplings"),
        (lambda: pcf.PointCloudFlow(hidden_dims=[]), ValueError, "hidden_dims"),
        (lambda: pcf.PointCloudFlow(base="cauchy"), ValueError, "normal, conditional"),
        (lambda: pcf.PointCloudFlow(base="conditional"), ValueError, "context_dim"),
        (lambda: pcf.PointCloudFlow(masks="odd"), ValueError, "move_one"),
        (lambda: pcf.PointCloudFlow(conditioning="attention", context_dim=2), ValueError, "film"),
        (lambda: pcf.PointCloudFlow(activation="step"), ValueError, "relu"),
        (lambda: pcf.PointCloudFlow().condition(torch.zeros(8)), ValueError, "without a context"),
        (lambda: pcf.PointCloudFlow(context_dim=8).condition(), TypeError, r"\(\*batch, 8\)"),
        (lambda: pcf.PointCloudFlow(context_dim=8).condition(torch.zeros(4)), ValueError, r"\(\*batch, 8\)"),
        (lambda: pcf.PointCloudFlow(context_dim=8).condition([0.0] * 8), TypeError, "list"),
        (lambda: pcf.PointCloudFlow().log_prob(torch.zeros(5, 2)), ValueError, r"\(\*batch, 3\)"),
        (lambda: pcf.PointCloudFlow().normalize(torch.zeros(5, 3)), ValueError, "not all the same"),
        (lambda: pcf.PointCloudFlow().cloud(), ValueError, "num_points is missing"),
        (
            lambda: pcf.PointCloudFlow(context_dim=8).condition(torch.zeros(4, 8)).log_prob(torch.zeros(7, 3)),
            ValueError,
            "context.unsqueeze",
        ),
    ],
)
def test_wrong_use_is_told(act, error, words):
    with pytest.raises(error, match=words):
        act()


@pytest.mark.parametrize("backend", ["plain", "tiled", "auto"])
def test_points_in_float32_of_a_flow_in_float64(backend):
    """The compiled kernel read the weights as if they were the points' type: log-densities of -inf."""
    flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8]).double()
    pcf.kernels.set_backend(flow, backend)
    points = torch.randn(5000, 3)
    log_prob = flow.log_prob(points)
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob, flow.log_prob(points.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [pcf.PointCloudFlow, lambda *a, **o: pcf.distributions.MixtureOfFlows(2, *a, **o)])
def test_sample_draws_from_the_density_of_each_cloud(kind, dtype):
    options = {"num_couplings": 2, "hidden_dims": [8]}
    plain, flow = kind(3, **options).to(dtype), kind(2, 4, **options).to(dtype)
    contexts = torch.randn(5, 4, dtype=dtype)
    for module, context, expected in [
        (plain, None, lambda: plain.cloud(num_points=7).sample((5,))),
        (flow, contexts, lambda: flow.cloud(contexts, num_points=7).sample()),
        (flow, contexts[0], lambda: flow.cloud(contexts[0], num_points=7).sample((5,))),
    ]:
        torch.manual_seed(3)
        drawn = module.sample(5, 7, context)
        torch.manual_seed(3)
        assert torch.equal(drawn, expected())
        assert drawn.shape == (5, 7, module.point_dim)
        assert not drawn.requires_grad
    assert plain.sample(0, 7).shape == (0, 7, 3)
    with pytest.raises(ValueError, match=r"one for each, shape \(4, C\), got contexts of batch shape \(5,\)"):
        flow.sample(4, 7, contexts)
    with pytest.raises(ValueError, match="num_clouds must not be negative, got -1"):
        plain.sample(-1, 7)
    with pytest.raises(TypeError, match="needs a context"):
        flow.sample(5, 7)
