"""How a stack is run: on the kernels, or the plain way, layer by layer in torch, where they are not installed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyro_pcflow.transforms.grouping import Groups

try:
    from pyro_pcflow.kernels import dispatch, operator
    from pyro_pcflow.transforms import lowering
except ModuleNotFoundError as error:
    # The package may be absent, and nothing that it needs.
    if error.name != "pyro_pcflow.kernels":
        raise
    HAS_KERNELS = False
else:
    HAS_KERNELS = True

__all__ = ["HAS_KERNELS", "choose_backend", "is_lowerable", "run_lowered"]


def choose_backend(wanted: str, points: Tensor, groups: int) -> str:
    """The way to run couplings, see `pyro_pcflow.kernels.dispatch.choose`; `"plain"` without kernels.

    Raises:
        ValueError: if a kernel is wanted that is not there.
    """
    if HAS_KERNELS:
        return dispatch.choose(wanted, points, groups)
    if wanted not in ("auto", "plain"):
        raise ValueError(f"the backend {wanted!r} was asked for, but pyro_pcflow.kernels is missing: ask for 'auto'")
    return "plain"


def is_lowerable(part: nn.Module, backend: str) -> bool:
    """Whether a backend runs a part of a stack, which else is run by itself."""
    return backend != "plain" and lowering.can_lower(part)


def run_lowered(
    couplings: Sequence[nn.Module], points: Tensor, groups: Groups, context: Tensor | None, inverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Run consecutive couplings on a kernel.

    Args:
        couplings: parts of a stack that are lowerable, in the order in which they are run.
        points: shape `(*batch, D)`.
        groups: how the context groups them.
        context: shape `(*context_batch, C)`, or None.
        inverse: from data to noise, or back.
        backend: which kernel.

    Returns:
        Points, and log-determinants of shape `(*batch,)`.
    """
    from_noise = couplings[::-1] if inverse else couplings
    program, weights, offsets = lowering.lower(from_noise, groups.contexts(context), groups.count, points.shape[-1])
    points, log_det = operator.run(program, groups.gather(points), weights, offsets, inverse, backend)
    return groups.scatter(points), groups.scatter(log_det)
