"""Presets: published flows over point clouds, as options of `PointCloudVAE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_pcflow.models.vae import PointCloudVAE
from pyro_pcflow.ops.options import check_options, option_names

__all__ = ["PRESETS", "Preset", "preset"]

VAE_OPTIONS = option_names(PointCloudVAE, without=["point_dim"])
T, F = True, False
# Keep two coordinates, then one, each in turn.
DPF_MASKS = ((F, T, T), (T, F, T), (T, T, F), (F, F, T), (F, T, F), (T, F, F))
# Two couplings are one autoregressive step: the second coordinate, then the third, of three orders in turn.
AR_MASKS = ((T, F, T), (T, T, F), (T, T, F), (F, T, T), (F, T, T), (T, F, T))


@dataclass(frozen=True)
class Preset:
    """A published model, as options of `PointCloudVAE`.

    Attributes:
        options: what differs from the defaults of `PointCloudVAE`.
        source: the paper.
        differs: what differs from the paper.
        published_parameters: number of parameters of the published flow over points, without its base; None if none was
            published.
    """

    options: Mapping[str, Any]
    source: str
    differs: str
    published_parameters: int | None = None


_DPF_DECODER = {
    "masks": DPF_MASKS,
    "activation": "relu",
    "separate_networks": True,
    "conditioning": "film",
    "context_layers": (1,),
    "max_log_scale": 0.5,
    "base": "conditional",
    "num_frequencies": 0,
    "act_norm": True,
}
_PRIOR = {"activation": "silu"}
# The published encoders, except for their batch statistics.
_POINT_NET = {"activation": "relu", "num_frequencies": 0, "pooled_points": None}
_DPF = {
    "latent_dim": 128,
    "prior_options": {"num_couplings": 14, "hidden_dims": (128,), **_PRIOR},
    "encoder": {"point_dims": (64, 128, 256, 512), "hidden_dims": (512,), **_POINT_NET},
}

PRESETS: dict[str, Preset] = {
    "default": Preset({}, source="this library", differs="nothing"),
    "nice": Preset(
        {
            "latent_dim": 128,
            "decoder": {
                "num_couplings": 4,
                "hidden_dims": (256,) * 5,
                "coupling": "additive",
                "masks": "halves",
                "activation": "relu",
                "num_frequencies": 0,
                "act_norm": True,
            },
            "prior_options": _PRIOR,
        },
        source="Dinh, Krueger and Bengio, NICE: Non-linear independent components estimation, ICLR 2015 workshop",
        differs="width 256 for 1000 of an image; a learned diagonal scale after every coupling, not one; a context",
    ),
    "realnvp": Preset(
        {
            "latent_dim": 128,
            "decoder": {
                "num_couplings": 12,
                "hidden_dims": (128, 128),
                "masks": "halves",
                "activation": "relu",
                "num_frequencies": 0,
                "act_norm": True,
            },
            "prior_options": _PRIOR,
        },
        source="Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, ICLR 2017",
        differs="fully connected networks for convolutions; ActNorm for batch norm between couplings; a context",
    ),
    "cif": Preset(
        {
            "latent_dim": 32,
            "decoder": {
                "num_couplings": 30,
                "hidden_dims": (256,) + (512,) * 9,
                "masks": "move_one",
                "separate_networks": True,
                "residual": True,
                "activation": "leaky_relu",
                # A shift of a layer is what an embedding concatenated to its input becomes.
                "conditioning": "bias",
                "context_dims": (256,) * 5,
                "context_layers": (1,),
                "max_log_scale": 1.0,
                "num_frequencies": 0,
            },
            "prior_options": {"num_couplings": 10, "hidden_dims": (512,) * 7, "separate_networks": True, **_PRIOR},
            "encoder": {"point_dims": (128, 128, 256, 512), "hidden_dims": (256, 128), **_POINT_NET},
        },
        source="Stypułkowski et al., Representing point clouds with generative conditional invertible flow networks, "
        "preprint, 2020",
        differs="a prior that swaps every second coordinate, not the halves",
        published_parameters=158_208_060,
    ),
    "dpf": Preset(
        {
            **_DPF,
            "decoder": {**_DPF_DECODER, "num_couplings": 63, "hidden_dims": (64, 64), "context_dims": (64,)},
        },
        source="Klokov, Boyer and Verbeek, Discrete point flow networks for efficient point cloud generation, "
        "ECCV 2020",
        differs="ActNorm between couplings for batch norm within their networks; a base linear in the latent",
        published_parameters=3_701_562,
    ),
    "softflow": Preset(
        {
            "latent_dim": 128,
            "noise_input": True,
            "decoder": {
                "num_couplings": 18,
                "hidden_dims": (256, 256, 256),
                "masks": AR_MASKS,
                "activation": "tanh",
                "conditioning": "concat_squash",
                "num_frequencies": 0,
                "act_norm": True,
            },
            "prior_options": {"num_couplings": 12, "lu_linear": True, "act_norm": True, **_PRIOR},
            "encoder": {"point_dims": (128, 128, 256, 512), "hidden_dims": (256, 128), **_POINT_NET},
        },
        source="Kim et al., SoftFlow: Probabilistic framework for normalizing flow on manifolds, NeurIPS 2020",
        differs="the level of noise in the context, not beside the point; the second coordinate of a step reads the "
        "third, too; a last layer without gate; an ActNorm after every coupling, not every step; bounded log-scales",
        published_parameters=5_956_047,
    ),
    "mixture": Preset(
        {
            **_DPF,
            "num_flows": 4,
            "decoder": {**_DPF_DECODER, "num_couplings": 33, "hidden_dims": (37, 37), "context_dims": (37,)},
        },
        source="Postels et al., Go with the flows: Mixtures of normalizing flows for point cloud generation and "
        "reconstruction, 3DV 2021",
        differs="as for dpf",
        published_parameters=3_692_688,
    ),
}


def preset(name: str, point_dim: int = 3, **overrides: Any) -> PointCloudVAE:
    """Make a `PointCloudVAE` whose flow over points has the architecture of a published model.

    Couplings, widths, masks, conditioning and latent are the published ones. `ActNorm` replaces batch statistics, with
    which the density of a point would depend on other points, and the sum of the log-scales of a stack is bounded as in
    `coupling_stack`. `PRESETS[name]` states what else differs, and the paper. In the table, parameters are those of the
    flow over points without its base, ours and the published number. "2nd" is the hidden layer that the context acts
    on, "by" gives the layers between the latent and that, "two networks" are one for the shift and one for the
    log-scale, and "base" means that the base depends on the latent, too:

    | preset | couplings | hidden widths | context | latent | parameters | published |
    | --- | --- | --- | --- | --- | --- | --- |
    | `nice` | 4, additive | 5 x 256 | bias | 128 | 1,712,158 | none |
    | `realnvp` | 12 | 2 x 128 | bias | 128 | 599,916 | none |
    | `cif` | 30, two networks | 256, 9 x 512 | bias of the 2nd, by 5 x 256 | 32 | 158,208,060 | 158,208,060 |
    | `dpf` | 63, two networks | 2 x 64 | FiLM of the 2nd, by 64; base | 128 | 3,677,748 | 3,701,562 |
    | `softflow` | 18, as 9 steps | 3 x 256 | concat-squash | 128 and noise | 5,972,112 | 5,956,047 |
    | `mixture` | 4 x 33, two networks | 2 x 37 | FiLM of the 2nd, by 37; base | 128 | 3,664,176 | 3,692,688 |

    For `nice` and `realnvp` no flow over points was published: their sizes are ours. `default` is `PointCloudVAE()`.

    Args:
        name: one of `PRESETS`.
        point_dim: number of coordinates `D` of a point; `dpf`, `softflow` and `mixture` have masks for 3.
        **overrides: any other option of `PointCloudVAE`; of options in `decoder`, `prior_options` and `encoder`, those
            that you name are replaced and the others kept.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if the name is unknown, or the masks are for points of another size.

    Examples:
        >>> vae = preset("dpf", decoder={"num_couplings": 6})
        >>> vae.sample(num_clouds=2, num_points=100).shape
        torch.Size([2, 100, 3])
        >>> PRESETS["dpf"].published_parameters
        3701562
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    check_options(overrides, VAE_OPTIONS, "preset")
    options = dict(PRESETS[name].options)
    for key, value in overrides.items():
        nested = isinstance(value, Mapping) and isinstance(options.get(key), Mapping)
        options[key] = {**options[key], **value} if nested else value
    masks = (options.get("decoder") or {}).get("masks")
    if point_dim != 3 and (masks is DPF_MASKS or masks is AR_MASKS):
        raise ValueError(
            f"the masks of preset {name!r} are for point_dim=3, got point_dim={point_dim}: give others, as in "
            f"preset({name!r}, point_dim={point_dim}, decoder={{'masks': 'alternate'}})"
        )
    return PointCloudVAE(point_dim, **options)
