"""What options of files of earlier versions mean today: the one place that knows."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["current_options", "current_state"]

RENAMED = {
    "act_norm_between": "act_norm",
    "mixing": "lu_linear",
    "total_log_scale": "max_total_log_scale",
}
# What a model and its decoder, prior and encoder were where their options did not say so.
DECODER = {"base": "normal", "num_couplings": 12}
PRIOR = {"base": "normal", "coupling": "affine", "masks": "halves", "activation": "silu", "num_frequencies": 0}
ENCODER = {"pooled_points": None}
WITH_ENCODER = {"num_corrections": 0}


def current_options(config: Any) -> Any:
    """A configuration of an earlier format, or a part of it, under the names and with the defaults of today.

    Args:
        config: nested dicts and lists of plain values.

    Examples:
        >>> current_options({"decoder": {"affine": False, "mixing": True}})
        {'decoder': {'lu_linear': True, 'coupling': 'additive'}}
        >>> current_options({"latent_dim": 8, "decoder": {}})
        {'latent_dim': 8, 'decoder': {'base': 'normal', 'num_couplings': 12}}
    """
    if isinstance(config, list):
        return [current_options(value) for value in config]
    if not isinstance(config, dict):
        return config
    translated = {RENAMED.get(name, name): current_options(value) for name, value in config.items()}
    if "latent_dim" in translated:
        decoder, encoder, prior = (translated.get(name) for name in ("decoder", "encoder", "prior_options"))
        if isinstance(decoder, dict) and not {"transform", *DECODER} & decoder.keys():
            translated["decoder"] = {**DECODER, **decoder}
        if isinstance(prior, dict) and translated.get("prior") == "flow":
            translated["prior_options"] = {**PRIOR, **prior}
        if isinstance(encoder, dict):
            for name, value in WITH_ENCODER.items():
                translated.setdefault(name, value)
            if "class" not in encoder:
                translated["encoder"] = {**ENCODER, **encoder}
    if translated.get("base") == "mixture":
        translated.setdefault("max_width", math.inf)
    if "affine" in translated:
        translated["coupling"] = "affine" if translated.pop("affine") else "additive"
    return translated


def current_state(state: Any) -> Any:
    """The state of a module of an earlier format, with what is there since: units without an origin.

    Args:
        state: tensors and plain values by name.

    Examples:
        >>> current_state({"units._extra_state": {"fitted": True}})
        {'units._extra_state': {'fitted': True, 'origin': []}}
    """
    if not isinstance(state, dict):
        return state
    return {
        name: {**value, "origin": []} if isinstance(value, dict) and value.keys() == {"fitted"} else value
        for name, value in state.items()
    }
