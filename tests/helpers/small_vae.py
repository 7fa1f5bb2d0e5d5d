"""Small autoencoders in float64, and their bound as sums over single clouds and points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.distributions import Normal

import pyro_pcflow as pcf

DECODER = {"num_couplings": 2, "hidden_dims": [8], "activation": "tanh"}
ENCODER = {"point_dims": [8, 8], "hidden_dims": [8]}
PRIOR = {"num_couplings": 2, "hidden_dims": [8]}
SIZES = (0, 1, 6, 4)


def make_vae(point_dim=3, latent_dim=4, seed=0, **options):
    """Small, in float64, with weights that make everything depend on everything."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        options = {"decoder": DECODER, "encoder": ENCODER, **options}
        if options.get("prior") != "normal":
            options.setdefault("prior_options", PRIOR)
        vae = pcf.PointCloudVAE(point_dim, latent_dim, **options)
        pcf.testing.randomize_parameters(vae, 0.3)
        vae.normalize(3 + 2 * torch.randn(50, point_dim))
        return vae.double()


def ragged(point_dim=3, padding=0.0):
    """Clouds of 0, 1, 6 and 4 points, shape `(4, 6, D)`, and their mask."""
    clouds = 3 + 2 * torch.randn(len(SIZES), max(SIZES), point_dim, dtype=torch.float64)
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(-1)
    return torch.where(mask.unsqueeze(-1), clouds, padding), mask


def elbo_of(vae, *args, loss=None, model=None, guide=None, seed=5, **options):
    torch.manual_seed(seed)
    loss = Trace_ELBO() if loss is None else loss
    return -loss.differentiable_loss(model or vae.model, guide or vae.guide, *args, **options)


def latents_of(vae, *args, seed=5, **options):
    """The latents that the guide draws from a seed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return poutine.trace(vae.guide).get_trace(*args, **options).nodes["z"]["value"]


def terms_by_hand(vae, z, clouds, sizes, *, labels=None, level=None, posterior=None):
    """`log p(x | z)` of each point summed, `log p(z)` and `log q(z)`, of every cloud alone, each of shape `(B,)`."""
    likelihood, prior, guide = [], [], []
    for i, size in enumerate(sizes):
        onehot = None if labels is None else F.one_hot(labels[i], vae.num_classes).double()
        context = [z[i]] if labels is None else [z[i], onehot]
        if level is not None:
            context.append(torch.as_tensor(level, dtype=torch.float64).expand(len(sizes))[i].reshape(1))
        context = torch.cat(context)
        points = [vae.decoder.log_prob(clouds[i, n], context) for n in range(size)]
        likelihood.append(sum(points, torch.zeros((), dtype=torch.float64)))
        if vae.prior is None:
            prior.append(Normal(0.0, 1.0).log_prob(z[i]).sum())
        else:
            prior.append(vae.prior.log_prob(z[i], onehot))
        q = (
            vae.encode(clouds[i, :size], labels=None if labels is None else labels[i])
            if posterior is None
            else posterior[i]
        )
        guide.append(q.log_prob(z[i]))
    return torch.stack(likelihood), torch.stack(prior), torch.stack(guide)
