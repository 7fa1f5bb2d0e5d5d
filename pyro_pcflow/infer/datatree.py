"""Results of inference for ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.infer import MCMC
from torch import Tensor

from pyro_pcflow.infer.chains import Chains
from pyro_pcflow.infer.completion import Completion

if TYPE_CHECKING:
    import xarray

__all__ = ["as_datatree", "to_datatree"]


@singledispatch
def to_datatree(result: Any, *, observed: Mapping[str, Tensor] | None = None) -> xarray.DataTree:
    """A result of inference as the `DataTree` that ArviZ 1 reads: summaries, plots and files of posteriors.

    | group | of `Chains` | of a `Completion` | of Pyro's `MCMC` |
    | --- | --- | --- | --- |
    | `posterior` | all latents | all latents, of all draws of its chains | all latents |
    | `sample_stats` | `Chains.statistics` | the same, if it has chains | `diverging`, `acceptance_rate` of a chain |
    | `posterior_predictive` | | `clouds` | |
    | `observed_data` | `observed` | `partial` | `observed` |

    Statistics have the names of ArviZ; `log_prior` and `log_likelihood` are sums over all that is observed. Draws of
    a completion without chains (`"svi"`, `"completer"`) are independent, and one chain of the tree. Its points have the
    dimension `point`, coordinates `coordinate`, clouds `cloud`; padding is NaN.

    It needs the extra: `pip install 'pyro-pcflow[arviz]'`.

    Args:
        result: what `sample_posterior` or `complete` returned, or a `MCMC` of Pyro that has run.
        observed: data by the names of their sites, of any shapes, for results that do not know them.

    Returns:
        The tree, whose variables have the dimensions `chain` and `draw` first.

    Raises:
        TypeError: if the result is none of these.
        ValueError: if `observed` is given for a completion, which knows its own.
        ModuleNotFoundError: if ArviZ is not installed.

    Examples:
        >>> import pyro_pcflow as pcf
        >>> flow = pcf.PointCloudFlow(point_dim=3, context_dim=2, num_couplings=2, hidden_dims=[8])
        >>> result = pcf.complete(flow, torch.randn(20, 3), 50, num_chains=4, check=False)
        >>> tree = to_datatree(result)  # doctest: +SKIP
        >>> tree["posterior"]["context"].dims  # doctest: +SKIP
        ('chain', 'draw', 'context_dim_0')
    """
    raise TypeError(
        "expected what sample_posterior or complete returned, or a MCMC of Pyro that has run, got "
        f"{type(result).__name__}"
    )


@to_datatree.register(Chains)
def _(result: Chains, *, observed: Mapping[str, Tensor] | None = None) -> xarray.DataTree:
    return as_datatree(
        {"posterior": result.samples, "sample_stats": result.statistics, "observed_data": observed or {}}
    )


@to_datatree.register(MCMC)
def _(result: MCMC, *, observed: Mapping[str, Tensor] | None = None) -> xarray.DataTree:
    samples = result.get_samples(group_by_chain=True)
    shape = next(iter(samples.values())).shape[:2]
    found = result.diagnostics()
    statistics = {}
    if "divergences" in found:
        diverging = torch.zeros(shape, dtype=torch.bool)
        for chain, places in enumerate(found["divergences"].values()):
            diverging[chain, places] = True
        statistics["diverging"] = diverging
    if "acceptance rate" in found:
        # Pyro keeps the mean of a chain alone.
        rates = torch.tensor([float(rate) for rate in found["acceptance rate"].values()])
        statistics["acceptance_rate"] = rates.unsqueeze(-1).expand(shape)
    return as_datatree({"posterior": samples, "sample_stats": statistics, "observed_data": observed or {}})


@to_datatree.register(Completion)
def _(result: Completion, *, observed: Mapping[str, Tensor] | None = None) -> xarray.DataTree:
    if observed is not None:
        raise ValueError("a completion knows what was observed: leave observed out")
    lead = result.observed.shape[:-1]
    batch = [f"cloud{dim}" for dim in range(len(lead))] if len(lead) > 1 else ["cloud"][: len(lead)]
    places = torch.arange(1, result.observed.shape[-1] + 1, device=result.observed.device)
    last = int((places * result.observed).max())
    partial = result.clouds[0].where(result.observed.unsqueeze(-1), torch.nan)[..., :last, :]
    chains = result.chains or Chains({name: value.unsqueeze(0) for name, value in result.latents.items()}, {})
    names = {**chains.samples, **chains.statistics}
    dims = {
        # A latent of all clouds has no dimension of them.
        name: [*batch, *(f"{name}_dim_{k}" for k in range(value.dim() - 2 - len(batch)))]
        for name, value in names.items()
        if value.shape[2 : 2 + len(batch)] == lead
    }
    dims |= {name: [*batch, "point", "coordinate"] for name in ("clouds", "partial")}
    return as_datatree(
        {
            "posterior": chains.samples,
            "sample_stats": chains.statistics,
            "posterior_predictive": {"clouds": result.clouds.unsqueeze(0)},
            "observed_data": {"partial": partial},
        },
        dims=dims,
    )


def as_datatree(
    groups: Mapping[str, Mapping[str, Tensor]], *, dims: Mapping[str, list[str]] | None = None
) -> xarray.DataTree:
    """A tree of tensors, whose first dimensions are chains and draws in all groups but `observed_data`.

    Args:
        groups: by their names, tensors by theirs; empty groups are left out.
        dims: names of the further dimensions of some tensors.
    """
    try:
        import arviz_base
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("to_datatree needs ArviZ: pip install 'pyro-pcflow[arviz]'") from error
    arrays = {
        group: {name: _array(value) for name, value in values.items()} for group, values in groups.items() if values
    }
    # There may be more chains than draws, which its check takes for a mistake.
    return arviz_base.from_dict(arrays, dims=dict(dims or {}), check_conventions=False)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
