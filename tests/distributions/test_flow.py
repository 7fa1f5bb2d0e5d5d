"""The flow over points: a density in the data's units, with a true batch shape."""

from __future__ import annotations

import copy
import pickle
import warnings

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
@pytest.mark.parametrize("base", ["normal", "conditional", "mixture"])
def test_batch_shape_is_that_of_the_context(context_shape, value_shape, batch_shape, base, device, dtype):
    flow = make_flow(device, dtype, context_dim=5, base=base)
    density = flow.condition(torch.randn(context_shape, device=device, dtype=dtype))
    assert density.batch_shape == batch_shape
    assert density.event_shape == (3,)
    assert density.has_rsample == (base != "mixture")
    assert density.support.event_dim == 1
    assert density.sample((2,)).shape == (2, *batch_shape, 3)
    if 0 not in batch_shape:
        value = torch.randn(value_shape, device=device, dtype=dtype)
        expected = torch.broadcast_shapes(value_shape[:-1], batch_shape)
        assert density.log_prob(value).shape == expected
        assert flow.log_prob(value, density_context(density)).shape == expected
        wide = density.expand((8, *batch_shape))
        assert wide.batch_shape == (8, *batch_shape)
        assert wide.sample().shape == (8, *batch_shape, 3)


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


@pytest.mark.parametrize("num_couplings", [0, 2])
def test_a_trajectory_of_a_mixture_starts_from_its_noise(num_couplings):
    flow = pcf.PointCloudFlow(3, base="mixture", num_components=4, num_couplings=num_couplings).double()
    flow.normalize(3 + torch.randn(500, 3, dtype=torch.float64))
    pcf.testing.randomize_parameters(flow, 0.1)
    torch.manual_seed(5)
    states = flow.trajectory(4000)
    torch.manual_seed(5)
    torch.testing.assert_close(states[-1], flow.cloud(num_points=4000).sample())
    assert states.shape == (2 + num_couplings, 4000, 3)
    noise = flow.units.inverse_and_log_det(states[0])[0]
    assert noise.mean(0).norm() < 4 * (3 / 4000) ** 0.5
    assert (noise.T.cov() - torch.eye(3)).abs().max() < 4 * (2 / 4000) ** 0.5


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
        (lambda: pcf.PointCloudFlow(base="mixture", num_components=0), ValueError, "num_components must be at least 1"),
        (lambda: pcf.PointCloudFlow(base="mixture", min_width=0.0), ValueError, "min_width must lie between 0 and 100"),
        (lambda: pcf.PointCloudFlow(base="mixture", max_width=1e-4), ValueError, "max_width must exceed min_width"),
        (lambda: pcf.PointCloudFlow(3, 2, num_components=3), TypeError, "num_components: options of base='mixture'"),
        (lambda: pcf.PointCloudFlow(points_per_component=0), ValueError, "points_per_component must be at least 1"),
        (lambda: pcf.PointCloudFlow(base="mixture", num_couplings=-1), ValueError, "num_couplings"),
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


def test_points_and_contexts_of_any_type():
    """Narrower ones are promoted; wider ones are refused, and both remedies that the error names work."""
    flow, points, context = make_flow(dtype=torch.float32, context_dim=4), torch.randn(7, 3), torch.randn(4)
    expected = flow.log_prob(points.half().float(), context.half().float())
    torch.testing.assert_close(flow.log_prob(points.half(), context.half()), expected)
    torch.testing.assert_close(flow.condition(context.long()).log_prob(points), flow.log_prob(points, context.trunc()))
    density = flow.condition(context)
    for score in (density.log_prob, flow.cloud(context, num_points=7).log_prob, lambda x: flow.log_prob(x, context)):
        with pytest.raises(TypeError) as told:
            score(points.double())
        assert str(told.value) == (
            "expected points of the flow's data type, torch.float32, or a narrower one, got torch.float64: "
            "points.to(torch.float32) converts them, or flow.to(torch.float64) the flow"
        )
        score(points.double().to(torch.float32))
    with pytest.raises(TypeError, match=r"expected contexts .*torch.float32, or a narrower one, got torch.float64"):
        flow.condition(context.double())
    flow.to(torch.float64)
    torch.testing.assert_close(
        flow.log_prob(points.double(), context), flow.log_prob(points.double(), context.double())
    )


def test_a_mask_keeps_padding_out_of_the_units():
    clouds = 5 + 3 * torch.randn(6, 50, 3, dtype=torch.float64)
    mask = torch.rand(6, 50) < 0.7
    padded = torch.where(mask.unsqueeze(-1), clouds, torch.tensor(float("nan")).double())
    flow, expected = make_flow(), make_flow()
    flow.normalize(padded, mask)
    expected.normalize(clouds[mask])
    assert torch.equal(flow.units.loc, expected.units.loc)
    assert torch.equal(flow.units.scale, expected.units.scale)
    with pytest.raises(ValueError, match="0 points"):
        flow.normalize(clouds, torch.zeros_like(mask))
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        flow.normalize(clouds.numpy())


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
    with pytest.raises(ValueError, match=r"one per cloud, shape \(4, C\), got contexts of batch shape \(5,\)"):
        flow.sample(4, 7, contexts)
    with pytest.raises(ValueError, match="num_clouds must not be negative, got -1"):
        plain.sample(-1, 7)
    with pytest.raises(TypeError, match="needs a context"):
        flow.sample(5, 7)


class Twist(pcf.transforms.PointTransform):
    """A transform of a third party: a rotation by an angle that grows with the last coordinate."""

    def __init__(self, point_dim):
        super().__init__(point_dim)
        self.rate = torch.nn.Parameter(torch.tensor(0.5))

    @property
    def config(self):
        return {"point_dim": self.point_dim}

    def transform_and_log_det(self, x):
        return self._turn(x, self.rate), x.new_zeros(x.shape[:-1])

    def inverse_and_log_det(self, y):
        return self._turn(y, -self.rate), y.new_zeros(y.shape[:-1])

    def _turn(self, x, rate):
        cos, sin = (rate * x[..., -1]).cos(), (rate * x[..., -1]).sin()
        return torch.stack([cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1], x[..., 2]], -1)


TRANSFORMS = {
    "stack with linear maps": lambda: pcf.transforms.CouplingStack(
        [
            pcf.transforms.affine_point_coupling(3, hidden_dims=[8], activation="tanh"),
            pcf.transforms.lu_linear(3),
            pcf.transforms.additive_point_coupling(3, hidden_dims=[8], activation="tanh", mask=[False, True, True]),
        ]
    ),
    "a single coupling": lambda: pcf.transforms.affine_point_coupling(3, hidden_dims=[8], activation="tanh"),
    "of a third party": lambda: Twist(3),
    "conditional stack": lambda: pcf.transforms.ConditionalCouplingStack(
        [pcf.transforms.conditional_affine_point_coupling(3, 4, hidden_dims=[8], activation="tanh"), Twist(3)], 4
    ),
    "conditional coupling": lambda: pcf.transforms.conditional_affine_point_coupling(3, 4, hidden_dims=[8]),
    "plain under a conditional base": lambda: Twist(3),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_flow_of_any_transform(name, device, tmp_path):
    transform = pcf.testing.randomize_parameters(TRANSFORMS[name](), 0.3).double().to(device)
    conditional = "condition" in name
    options = {"context_dim": 4 * conditional, "base": "conditional" if "base" in name else "normal"}
    flow = pcf.PointCloudFlow(3, transform=transform, **options)
    training = 4 + 3 * torch.randn(50, 3, dtype=torch.float64, device=device)
    flow.normalize(training)
    context = torch.randn(5, 4, dtype=torch.float64, device=device) if conditional else None
    if "base" in name:
        pcf.testing.randomize_parameters(flow.base)
    points = 4 + 3 * torch.randn(5, 3, dtype=torch.float64, device=device)
    x, log_det = (points - flow.units.loc) / flow.units.scale, -3 * flow.units.scale.log()
    conditioned = transform.condition(context) if hasattr(transform, "condition") else transform
    noise, inner = conditioned.inverse_and_log_det(x)
    expected = noise_density(flow, context).log_prob(noise) + inner + log_det
    torch.testing.assert_close(flow.log_prob(points, context), expected)
    torch.testing.assert_close(flow.condition(context).log_prob(points), expected)
    torch.testing.assert_close(flow.cloud(context, num_points=1).log_prob(points.unsqueeze(-2)), expected)
    assert flow.sample(5, 7, context).shape == (5, 7, 3)
    assert flow.trajectory(7, context).shape[-2:] == (7, 3)
    assert {id(p) for p in transform.parameters()} <= {id(p) for p in flow.parameters()}
    assert torch.equal(copy.deepcopy(flow).log_prob(points, context), flow.log_prob(points, context))
    assert torch.equal(pickle.loads(pickle.dumps(flow)).log_prob(points, context), flow.log_prob(points, context))
    assert flow._repr_html_()
    pcf.save(flow, tmp_path / "flow.pt")
    again = pcf.load(tmp_path / "flow.pt", custom=[Twist])
    assert torch.equal(again.to(device).log_prob(points, context), flow.log_prob(points, context))


def test_a_given_stack_is_left_as_it_was():
    stack = TRANSFORMS["stack with linear maps"]()
    pcf.kernels.set_backend(stack, "plain")
    first, second = (pcf.PointCloudFlow(3, transform=stack) for _ in range(2))
    first.normalize(7 + torch.randn(50, 3))
    assert len(stack.parts) == 3
    assert first.transform.backend == "plain"
    assert not second.normalized
    assert first.transform.parts[0] is second.transform.parts[0]
    # The states of every part are those of a trajectory.
    assert len(first.trajectory(5)) == 1 + 3


def test_a_flow_of_a_given_transform_trains():
    flow = pcf.PointCloudFlow(3, transform=TRANSFORMS["stack with linear maps"]())
    points = torch.randn(500, 3) * torch.tensor([3.0, 1.0, 0.3]) + 7
    before = copy.deepcopy(flow.transform.parts[1].state_dict())
    result = pcf.fit(flow, points, max_steps=5, seed=0, device="cpu")
    assert flow.normalized
    assert result.nats_per_point > -10
    assert any(not torch.equal(value, before[name]) for name, value in flow.transform.parts[1].state_dict().items())


def far(flow):
    return 1000 + torch.randn(20, 3, dtype=flow.units.loc.dtype)


UNITS = "[0-9]+ standard deviations .* units were never set: flow.normalize"


@pytest.mark.parametrize(
    "score",
    [
        lambda flow: flow.log_prob(far(flow)),
        lambda flow: flow.condition().log_prob(far(flow)),
        lambda flow: flow.condition().expand((20,)).log_prob(far(flow)),
        lambda flow: flow.cloud(num_points=20).log_prob(far(flow)),
        lambda flow: pcf.distributions.NoisyPoint(flow.condition(), 0.1).log_prob(far(flow)),
        lambda flow: dist.TransformedDistribution(
            flow.condition(), [dist.transforms.AffineTransform(torch.zeros(3), 0.5, event_dim=1)]
        ).log_prob(far(flow) / 2),
    ],
    ids=["log_prob", "condition", "expanded", "cloud", "noisy", "posed"],
)
def test_units_that_were_never_set_are_told_once(score):
    flow = make_flow()
    with pytest.warns(UserWarning, match=UNITS):
        score(flow)
    score(flow)  # warnings are errors
    again = make_flow()
    again.normalize(far(again))
    score(again)


@pytest.mark.parametrize("value", [0.0, 50.0, float("inf"), float("nan")])
def test_near_points_and_broken_ones_are_no_case_of_units(value):
    make_flow().log_prob(torch.full((20, 3), value).double())


def test_later_points_are_not_looked_at():
    """A sampler that adapts its steps tries poses under which the points lie anywhere."""
    flow = make_flow()
    flow.log_prob(torch.randn(20, 3).double())
    flow.log_prob(far(flow))


def test_units_are_not_looked_at_where_values_cannot_be_read():
    flow = make_flow().requires_grad_(False)
    torch.func.vmap(flow.log_prob)(far(flow))
    torch.func.vmap(flow.condition().log_prob)(far(flow))
    torch.func.grad(lambda x: flow.log_prob(x).sum())(far(flow))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.trace(lambda x: flow.log_prob(x), far(flow), check_trace=False)
    with pytest.warns(UserWarning, match=UNITS):
        flow.log_prob(far(flow))


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda t: pcf.PointCloudFlow(3, transform=t, num_couplings=12), TypeError, "either.*and num_couplings"),
        (
            lambda t: pcf.PointCloudFlow(3, transform=t, hidden_dims=[8], masks="halves"),
            TypeError,
            "hidden_dims, masks",
        ),
        (lambda t: pcf.PointCloudFlow(2, transform=t), ValueError, "point_dim=2.*point_dim=3"),
        (lambda t: pcf.PointCloudFlow(3, 8, transform=t), ValueError, "context_dim=8.*contexts of size 0"),
        (
            lambda _: pcf.PointCloudFlow(3, 8, transform=TRANSFORMS["conditional coupling"]()),
            ValueError,
            "context_dim=8.*contexts of size 4",
        ),
        (
            lambda _: pcf.PointCloudFlow(3, transform=TRANSFORMS["conditional stack"]()),
            ValueError,
            "contexts of size 4",
        ),
        (lambda _: pcf.PointCloudFlow(3, transform=dist.transforms.planar(3)), TypeError, "got Planar"),
        (lambda t: pcf.PointCloudFlow(3, transform=t, mask="halves"), TypeError, "unknown option 'mask'"),
        (lambda t: pcf.MixtureOfFlows(2, 3, transform=t), TypeError, "unknown option 'transform'"),
    ],
)
def test_a_transform_that_does_not_fit_is_told(act, error, words):
    with pytest.raises(error, match=words):
        act(Twist(3))


def test_a_mixture_under_couplings_integrates_to_one():
    flow = make_flow(point_dim=2, base="mixture", num_components=6, scale=0.1)
    flow.normalize(torch.randn(200, 2).double())
    pcf.fit(flow, torch.randn(200, 2).double(), max_steps=20, lr=1e-2, device="cpu")
    axis = torch.linspace(-12, 12, 800).double()
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        total = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("num_couplings", [0, 3])
def test_samples_of_a_mixture_come_from_its_density(num_couplings):
    """E_p[q / p] = 1."""
    flow = make_flow(base="mixture", num_components=4, num_couplings=num_couplings, scale=0.05)
    flow.normalize(torch.randn(200, 3).double())
    other = dist.Normal(torch.zeros(3).double(), 0.6).to_event(1)
    density = flow.condition()
    torch.manual_seed(1)
    points = density.sample((100_000,))
    ratio = (other.log_prob(points) - density.log_prob(points.clone())).exp()
    error = ratio.std().item() / len(points) ** 0.5
    assert error < 0.02
    assert abs(ratio.mean().item() - 1) < 4 * error


def test_a_mixture_without_couplings_learns_a_surface_sooner():
    """Normal noise under couplings takes hundreds of steps to where a mixture starts."""
    place = 2 * torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) - 1
    points = torch.cat([place, (4 * place[:, :1]).sin() * place[:, 1:]], -1)
    scores = {}
    for base, num_couplings in (("normal", 12), ("mixture", 0)):
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(3, base=base, num_couplings=num_couplings)
        scores[base] = pcf.fit(flow, points, max_steps=40, noise=0.03, device="cpu").nats_per_point
    assert scores["mixture"] > scores["normal"] + 0.5


def test_a_label_is_enumerated_under_mixtures():
    flow = make_flow(context_dim=3, base="mixture", num_components=4, scale=0.1)
    points, kinds = torch.randn(6, 3).double(), torch.eye(3).double()
    weights = torch.tensor([0.2, 0.3, 0.5]).double()

    @pyro.infer.config_enumerate
    def model():
        with pyro.plate("points", 6):
            label = pyro.sample("label", dist.Categorical(weights))
            pyro.sample("x", flow.condition(kinds[label]), obs=points)

    joint = torch.stack([flow.log_prob(points, kind) for kind in kinds], -1) + weights.log()
    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    assert -elbo.loss(model, lambda: None) == pytest.approx(joint.logsumexp(-1).sum().item())


def test_vectorized_particles_under_mixtures():
    flow = make_flow(context_dim=2, base="mixture", num_components=4, scale=0.1)
    points = torch.randn(6, 3).double()

    def model():
        context = pyro.sample("c", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("points", 6):
            pyro.sample("x", flow.condition(context), obs=points)

    def guide():
        pyro.sample("c", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    elbo = pyro.infer.Trace_ELBO(num_particles=7, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(0)
    loss = elbo.loss(model, guide)
    torch.manual_seed(0)
    contexts = torch.randn(7, 1, 2).double()
    assert -loss == pytest.approx(flow.log_prob(points, contexts).sum(-1).mean().item())


def test_one_shape_without_options_is_what_is_sharpest():
    flow = pcf.PointCloudFlow(3)
    expected = {"base": "mixture", "num_components": 1024, "points_per_component": 190, "coupling": "cubic"}
    assert expected.items() <= flow.config.items()
    assert pcf.PointCloudFlow(3, base="mixture").config == flow.config
    assert pcf.PointCloudFlow(3, num_components=16).config["points_per_component"] == 1
    # The log-density is exact and normalised all the same.
    flow.normalize(torch.randn(2000, 3))
    draws = flow.sample(1, 500)[0]
    assert draws.shape == (500, 3)
    assert flow.log_prob(draws).isfinite().all()


@pytest.mark.parametrize(
    "options",
    [{"base": "normal"}, {"num_couplings": 12}, {"hidden_dims": [64, 64]}, {"coupling": "affine"}, {"context_dim": 2}],
    ids=lambda options: next(iter(options)),
)
def test_any_word_on_couplings_starts_from_affine_ones(options):
    flow = pcf.PointCloudFlow(3, **options)
    assert flow.config["base"] == "normal"
    assert flow.config["num_couplings"] == 12
    assert isinstance(flow.transform.parts[0].elementwise, pcf.transforms.Affine)
