"""Checks for authors of new layers: what every point transform must satisfy. Our own tests use them.

Each check compares with an independent computation and raises an `AssertionError` that says which promise was
broken. Write a new layer, then one test:

    def test_my_layer():
        pcf.testing.check_transform(lambda: my_layer(3))
"""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from pyro_pcflow.transforms import (
    ConditionalPointTransform,
    Elementwise,
    PointTransform,
    conditional_point_coupling,
    point_coupling,
)

ModuleT = TypeVar("ModuleT", bound=nn.Module)

__all__ = ["check_conditional_transform", "check_elementwise", "check_transform", "randomize_parameters"]


def check_elementwise(
    elementwise: Elementwise,
    *,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check what a coupling is to do to one coordinate.

    Shapes, the round trip, the log-derivative against autograd's in both directions, that no coordinate depends on
    another, second derivatives, and that its `config` makes the same map again. Then couplings of it, plain and
    conditional, must pass `check_transform` and `check_conditional_transform`.

    Args:
        elementwise: the map.
        dtype: data type of the arithmetic.
        device: where the arithmetic runs.
        tolerance: largest relative error allowed; by default `1e-8` in float64 and `1e-3` in float32.
        seed: of coordinates and parameters.

    Raises:
        AssertionError: naming the promise that was broken.

    Examples:
        >>> from pyro_pcflow.transforms import Affine
        >>> check_elementwise(Affine(max_log_scale=0.5))
    """
    limit = _tolerance(dtype, tolerance)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        y = torch.randn(5, 3, dtype=dtype, device=device, requires_grad=True)
        parameters = 0.5 * torch.randn(5, 3, elementwise.num_parameters, dtype=dtype, device=device)
        parameters.requires_grad_()
        x, log_det = _checked_map(elementwise.inverse_and_log_det, y, parameters, limit)
        start = x.detach().requires_grad_()
        back, negated = _checked_map(elementwise.forward_and_log_det, start, parameters, limit)
        _require_close(back, y, limit, "forward_and_log_det must undo inverse_and_log_det")
        _require_close(negated, -log_det, limit, "log_det must change sign with the direction")
        twin = type(elementwise)(**elementwise.config)
        for value, again in zip((x, log_det), twin.inverse_and_log_det(y, parameters), strict=True):
            _require(torch.equal(value, again), f"config must make the same map again, got {twin!r}")
        alone, _ = elementwise.inverse_and_log_det(y[:, :1], parameters[:, :1])
        _require_close(alone, x[:, :1], limit, "no coordinate may depend on another")
    options: dict[str, Any] = {"dtype": dtype, "device": device, "tolerance": tolerance, "seed": seed}
    sizes: dict[str, Any] = {"hidden_dims": [8], "activation": "tanh"}
    check_transform(lambda: point_coupling(3, elementwise, **sizes), **options)
    check_conditional_transform(lambda: conditional_point_coupling(3, 4, elementwise, **sizes), **options)


def check_transform(
    make: Callable[[], PointTransform],
    *,
    num_points: int = 7,
    scale: float = 0.3,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check a plain point transform.

    Its inverse, its log-determinant against the Jacobian that autograd computes, its shapes, the gradient of every
    parameter, its independence of other points of the batch and of the mode, copies and pickles after use, and that
    nothing which it caches outlives its parameters or the tensors that it handed out.

    Args:
        make: returns a new transform; called more than once.
        num_points: number of test points.
        scale: standard deviation of the noise that is added to the parameters, so that a start at the identity does
            not hide an error.
        dtype: data type of the arithmetic.
        device: where the arithmetic runs.
        tolerance: largest relative error allowed; by default `1e-8` in float64 and `1e-3` in float32.
        seed: of parameters and points.

    Raises:
        AssertionError: naming the promise that was broken.

    Examples:
        >>> from pyro_pcflow.transforms import affine_point_coupling
        >>> check_transform(lambda: affine_point_coupling(3, hidden_dims=[8]))
    """
    tolerance = _tolerance(dtype, tolerance)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transform = randomize_parameters(make(), scale).to(device=device, dtype=dtype)
        points = torch.randn(num_points, transform.point_dim, dtype=dtype, device=device)
        transform.inv(points)  # lets a data-dependent layer take its scale
        _check_static(transform)
        _check_bijection(transform, points, tolerance)
        _check_shapes(transform, transform.point_dim)
        _check_modes(transform, lambda: transform, points)
        _check_gradients(transform, lambda: transform, points)
        _check_cache(transform, lambda: transform, points)
        _check_copies(transform, lambda module: module, points)
        _check_in_distribution(transform, torch.Size(), points)
        _check_state(make, transform, lambda module: module, points)


def check_conditional_transform(
    make: Callable[[], ConditionalPointTransform],
    *,
    num_points: int = 7,
    scale: float = 0.3,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check a conditional point transform: all that `check_transform` does, for several contexts at once.

    In addition: the batch shape broadcasts with that of the contexts, each context acts on its own cloud alone,
    gradients reach the context, and conditioning evaluates no network, so that a view made before a step of the
    optimiser gives the density after it.

    Args:
        make: returns a new conditional transform; called more than once.
        num_points: number of test points of each cloud.
        scale: as for `check_transform`.
        dtype: data type of the arithmetic.
        device: where the arithmetic runs.
        tolerance: as for `check_transform`.
        seed: of parameters, points and contexts.

    Raises:
        AssertionError: naming the promise that was broken.

    Examples:
        >>> from pyro_pcflow.transforms import conditional_affine_point_coupling
        >>> check_conditional_transform(lambda: conditional_affine_point_coupling(3, 4, hidden_dims=[8]))
    """
    tolerance = _tolerance(dtype, tolerance)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transform = randomize_parameters(make(), scale).to(device=device, dtype=dtype)
        dims = transform.point_dim
        contexts = torch.randn(4, 1, transform.context_dim, dtype=dtype, device=device, requires_grad=True)
        points = torch.randn(4, num_points, dims, dtype=dtype, device=device)
        transform.condition(contexts).inv(points)
        _check_static(transform)
        _check_static(transform.condition(contexts))
        for context, cloud in zip(contexts.detach(), points, strict=True):
            _check_bijection(transform.condition(context.squeeze(0)), cloud, tolerance)
        _check_context(transform, contexts, points, tolerance)
        view = transform.condition(contexts)
        _check_modes(transform, lambda: view, points)
        _check_gradients(transform, lambda: view, points, contexts)
        _check_cache(transform, lambda: view, points)
        _check_copies(transform, lambda module: module.condition(contexts.detach()), points)
        _check_in_distribution(view, torch.Size((4, 1)), points)
        _check_state(make, transform, lambda module: module.condition(contexts), points)


def randomize_parameters(module: ModuleT, scale: float = 0.3) -> ModuleT:
    """Add normal noise to every parameter of a module, in place, and return the module.

    Args:
        module: any module.
        scale: standard deviation of the noise.

    Examples:
        >>> moved = randomize_parameters(torch.nn.Linear(2, 2), scale=1.0)
        >>> moved.weight.shape
        torch.Size([2, 2])
    """
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def _tolerance(dtype: torch.dtype, tolerance: float | None) -> float:
    if tolerance is not None:
        return tolerance
    return 1e-8 if dtype == torch.float64 else 1e-3


def _require(holds: bool | Tensor, promise: str) -> None:
    if not bool(holds):
        raise AssertionError(promise)


def _require_close(got: Tensor, expected: Tensor, tolerance: float, promise: str) -> None:
    _require(got.shape == expected.shape, f"{promise}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    error = ((got - expected).abs() / (1 + expected.abs())).max().item() if got.numel() else 0.0
    _require(error <= tolerance, f"{promise}: relative error {error:.3g} above {tolerance:.3g}")


def _checked_map(
    method: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, parameters: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Image and log-derivative, once they are known to belong together."""
    image, log_det = method(x, parameters)
    name = getattr(method, "__name__", "the map")
    for value in (image, log_det):
        _require(value.shape == x.shape, f"{name} must return shapes {tuple(x.shape)}, got {tuple(value.shape)}")
    (slope,) = torch.autograd.grad(image.sum(), x, retain_graph=True)
    _require_close(log_det, slope.abs().log(), tolerance, f"log_det must be the log-derivative of {name}")
    few = [tensor[:2].detach().double().requires_grad_() for tensor in (x, parameters)]
    try:
        torch.autograd.gradgradcheck(method, few)
    except RuntimeError as error:
        raise AssertionError(f"{name} must be differentiable twice: {error}") from error
    return image, log_det


def _check_static(transform: nn.Module | Transform) -> None:
    event = constraints.independent(constraints.real, 1)
    for name in ("domain", "codomain"):
        constraint = getattr(type(transform), name)
        _require(
            isinstance(constraint, type(event)) and constraint.event_dim == 1,
            f"{name} must be a class attribute constraints.independent(constraints.real, 1)",
        )
    _require(getattr(type(transform), "bijective", False) is True, "bijective must be True on the class")


def _check_bijection(transform: Transform, points: Tensor, tolerance: float) -> None:
    noise = transform.inv(points)
    _require_close(transform(noise), points, tolerance, "transform(transform.inv(y)) must be y")
    _require_close(
        transform._call(noise.clone()), points, tolerance, "a recomputed image of transform.inv(y) must be y"
    )
    _require(bool((noise - points).abs().max() > 1e-6), "the transform must not be the identity when tested")

    for point in points[:3]:
        # Column by column, so that the log-determinant is checked against autograd alone.
        jacobian = torch.autograd.functional.jacobian(transform._inverse, point)
        expected = torch.linalg.slogdet(jacobian)[1]
        value = transform.inv(point)
        got = transform.inv.log_abs_det_jacobian(point, value)
        _require_close(got, expected, tolerance, "log_abs_det_jacobian must be that of autograd's Jacobian")
        again = transform.log_abs_det_jacobian(value.clone(), point.clone())
        _require_close(again, -expected, tolerance, "log_abs_det_jacobian of copies must be recomputed")
        image = transform(value.clone())
        forward = transform.log_abs_det_jacobian(value, image)
        _require_close(forward, -expected, tolerance, "log_abs_det_jacobian must change sign with the direction")

    one_by_one = torch.stack([transform.inv(point) for point in points])
    _require_close(noise, one_by_one, tolerance, "no point may depend on another point of the batch")


def _check_shapes(transform: Transform, dims: int) -> None:
    for batch in [(), (1,), (5, 2)]:
        shape = torch.Size((*batch, dims))
        _require(transform.forward_shape(shape) == shape, f"forward_shape must keep {tuple(shape)}")
        _require(transform.inverse_shape(shape) == shape, f"inverse_shape must keep {tuple(shape)}")
    for wrong in [torch.Size((5, dims + 1)), torch.Size(())]:
        try:
            transform.forward_shape(wrong)
        except ValueError:
            continue
        raise AssertionError(f"forward_shape must raise a ValueError for points of shape {tuple(wrong)}")


def _check_context(transform: ConditionalPointTransform, contexts: Tensor, points: Tensor, tolerance: float) -> None:
    view = transform.condition(contexts)
    _check_shapes(transform.condition(contexts[0, 0]), transform.point_dim)
    one = torch.Size((transform.point_dim,))
    expected = torch.Size((*contexts.shape[:-1], *one))
    _require(view.forward_shape(one) == expected, "forward_shape must broadcast with the contexts' batch shape")
    _require(view.inverse_shape(one) == expected, "inverse_shape must broadcast with the contexts' batch shape")
    joint = view.inv(points)
    apart = torch.stack([transform.condition(c).inv(p) for c, p in zip(contexts, points, strict=True)])
    _require_close(joint, apart, tolerance, "each context must act on its own cloud alone")
    shared = view.inv(points[0, 0])
    _require(shared.shape == expected, "a single point must broadcast over the contexts")
    _require(bool((shared[0] - shared[1]).abs().max() > 1e-6), "the context must matter")
    for wrong in [contexts[..., :-1], contexts.new_zeros(())]:
        try:
            transform.condition(wrong)
        except ValueError:
            continue
        raise AssertionError(f"a context of shape {tuple(wrong.shape)} must raise a ValueError")


def _check_modes(module: nn.Module, view: Callable[[], Transform], points: Tensor) -> None:
    was_training = module.training
    densities = []
    for mode in (True, False):
        module.train(mode)
        noise = view()._inverse(points.clone())
        densities.append((noise, view().log_abs_det_jacobian(noise, points)))
    module.train(was_training)
    for train, evaluate in zip(*densities, strict=True):
        _require(torch.equal(train, evaluate), "train and eval mode must give the same bits")


def _check_gradients(module: nn.Module, view: Callable[[], Transform], points: Tensor, *others: Tensor) -> None:
    if not list(module.parameters()):
        return
    noise = view()._inverse(points.clone())
    loss = noise.square().sum() - view().log_abs_det_jacobian(noise, points).sum()
    named = [*module.named_parameters(), *((f"input {i}", other) for i, other in enumerate(others))]
    gradients = torch.autograd.grad(loss, [tensor for _, tensor in named], allow_unused=True)
    for (name, _), gradient in zip(named, gradients, strict=True):
        _require(gradient is not None, f"the density must depend on {name}")
        assert gradient is not None
        _require(gradient.isfinite().all(), f"the gradient of {name} must be finite")
        _require(gradient.abs().max() > 0, f"the gradient of {name} must not vanish")


def _check_cache(module: nn.Module, view: Callable[[], Transform], points: Tensor) -> None:
    """Nothing that a transform caches may survive a change of what it depends on, however it was made."""

    def in_place(tensor: Tensor) -> None:
        tensor[(0,) * tensor.dim()].add_(0.1)

    def through_data(tensor: Tensor) -> None:
        # As through NumPy, which no version counter sees either.
        tensor.data[(0,) * tensor.dim()].add_(0.1)

    for change in (in_place, through_data):
        for changed in ("parameters", "sample", "source", "log-determinant"):
            transform = view()
            with torch.no_grad():
                source = points.clone()
                sample = transform(source)
                log_det = transform.log_abs_det_jacobian(source, sample)
                noise = transform.inv(points)
                _require(
                    torch.equal(transform.inv(sample), source), "a fresh sample must have the source that it came from"
                )
                tensors = {"sample": [sample, noise], "source": [source, points], "log-determinant": [log_det]}
                kept = points.clone()
                for tensor in _state(module) if changed == "parameters" else tensors[changed]:
                    change(tensor)
                # Copies of the arguments are not in the cache: their images must be computed.
                _require(
                    torch.equal(transform.inv(sample), transform.inv(sample.clone())),
                    f"a cached inverse must not outlive a change of the {changed} that made it",
                )
                for x, y in ((source, sample), (noise, points)):
                    _require(
                        torch.equal(
                            transform.log_abs_det_jacobian(x, y), transform.log_abs_det_jacobian(x.clone(), y.clone())
                        ),
                        f"a cached log-determinant must not outlive a change of the {changed} that made it",
                    )
                points.copy_(kept)
    source = points.clone()
    known = weakref.ref(source)
    sample = view()(source)
    del source, sample
    _require(known() is None, "nothing may be kept of a sample that has died")
    if list(module.parameters()):
        transform = view()
        with torch.no_grad():
            output = transform(points)
        _require(
            transform.inv(output).requires_grad,
            "an output of no_grad mode must not be believed in grad mode",
        )


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]


def _check_copies(module: nn.Module, view: Callable[[Any], Transform], points: Tensor) -> None:
    expected = view(module).inv(points)
    for name, twin in {
        "copy.deepcopy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),
    }.items():
        _require(torch.equal(view(twin).inv(points), expected), f"{name} after use must keep the density")
    pickle.loads(pickle.dumps(view(module)))
    narrow = copy.deepcopy(module).to(torch.float32).to(points.dtype)
    _require_close(view(narrow).inv(points), expected, 1e-4, "a change of data type must keep the density")
    for parameter in module.parameters():
        _require(parameter.dtype == points.dtype, "a copy's data type must not reach the original")


def _check_in_distribution(transform: Transform, batch_shape: torch.Size, points: Tensor) -> None:
    dims = points.shape[-1]
    noise = dist.Normal(points.new_zeros(dims), points.new_ones(dims)).to_event(1)
    flow = dist.TransformedDistribution(noise, [transform.with_cache()])
    _require(flow.batch_shape == batch_shape, f"batch_shape must be {batch_shape}, got {flow.batch_shape}")
    _require(flow.event_shape == (dims,), f"event_shape must be {(dims,)}, got {flow.event_shape}")
    wider = flow.expand(torch.Size((3, *batch_shape)))
    sample = wider.rsample()
    _require(sample.shape == (3, *batch_shape, dims), "expand must widen the samples")
    density = wider.log_prob(sample)
    _require(density.shape == (3, *batch_shape), "expand must widen the densities")
    flow.clear_cache()
    _require_close(density, wider.log_prob(sample.clone()), 1e-4, "a fresh sample must have the density it is given")
    parameters = _parameters(transform)
    if not parameters:
        return
    first, second = (torch.autograd.grad(flow.log_prob(points).sum(), parameters, allow_unused=True) for _ in range(2))
    for one, two in zip(first, second, strict=True):
        _require(one is not None and two is not None and torch.equal(one, two), "gradients must be repeatable")


def _parameters(transform: Any) -> list[Tensor]:
    module = transform if isinstance(transform, nn.Module) else transform.transform
    return list(module.parameters())


def _check_state(
    make: Callable[[], nn.Module], module: nn.Module, view: Callable[[Any], Transform], points: Tensor
) -> None:
    twin = make().to(points)
    twin.load_state_dict(module.state_dict())
    _require(
        torch.equal(view(twin).inv(points), view(module).inv(points)),
        "a transform loaded from a state_dict must have the same density",
    )
