"""What options of files of earlier versions are called today: the one place that knows."""

from __future__ import annotations

from typing import Any

__all__ = ["current_options"]

RENAMED = {
    "act_norm_between": "act_norm",
    "mixing": "lu_linear",
    "total_log_scale": "max_total_log_scale",
}


def current_options(config: Any) -> Any:
    """A configuration of format 1, or a part of it, under the names of today; others stay as they are.

    Args:
        config: nested dicts and lists of plain values.

    Examples:
        >>> current_options({"decoder": {"affine": False, "mixing": True}})
        {'decoder': {'lu_linear': True, 'coupling': 'additive'}}
    """
    if isinstance(config, list):
        return [current_options(value) for value in config]
    if not isinstance(config, dict):
        return config
    translated = {RENAMED.get(name, name): current_options(value) for name, value in config.items()}
    if "affine" in translated:
        translated["coupling"] = "affine" if translated.pop("affine") else "additive"
    return translated
