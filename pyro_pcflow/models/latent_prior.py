"""Densities over latents, learned together with the model that has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_pcflow.distributions import PointCloudFlow
from pyro_pcflow.distributions.flow import FLOW_OPTIONS
from pyro_pcflow.ops.options import check_options

__all__ = ["latent_flow"]


def latent_flow(
    latent_dim: int,
    context_dim: int = 0,
    *,
    num_couplings: int = 8,
    hidden_dims: Sequence[int] = (128,),
    **flow_options: Any,
) -> PointCloudFlow:
    """Make a coupling stack over latents: the prior of a variational autoencoder, of point clouds or of anything.

    A learned prior closes the gap between the codes of the data and a standard normal, so that samples of it decode
    to what the decoder was trained on (Chen et al., Variational lossy autoencoder, ICLR 2017, section 3.2). A new one
    is standard normal. Under a context, such as a class, it is a prior for each.

    Args:
        latent_dim: size of a latent, at least 2.
        context_dim: size of a context, 0 for none.
        num_couplings: number of couplings, each of which moves every second coordinate.
        hidden_dims: widths of every conditioner's hidden layers.
        **flow_options: any other option of `PointCloudFlow`.

    Raises:
        TypeError: if an option is unknown.

    Returns:
        A module whose `condition(context)` is a Pyro distribution with `event_shape (latent_dim,)`.

    Examples:
        >>> import pyro, torch
        >>> prior = latent_flow(4)
        >>> def model(data):  # (B, 2)
        ...     pyro.module("prior", prior)
        ...     with pyro.plate("data", len(data)):
        ...         z = pyro.sample("z", prior.condition())
        ...         pyro.sample("x", pyro.distributions.Normal(z[..., :2], 0.1).to_event(1), obs=data)
        >>> pyro.poutine.trace(model).get_trace(torch.randn(5, 2)).nodes["z"]["value"].shape
        torch.Size([5, 4])
    """
    check_options(flow_options, FLOW_OPTIONS, "latent_flow")
    options = {"masks": "halves", "activation": "silu", "num_frequencies": 0, **flow_options}
    return PointCloudFlow(latent_dim, context_dim, num_couplings, hidden_dims, **options)
