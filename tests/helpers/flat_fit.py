"""`fit` with its options by name, as tests vary them one by one."""

from __future__ import annotations

from dataclasses import fields

from pyro_pcflow import training

GROUPS = {
    "optimization": training.Optimization,
    "sampling": training.CloudSampling,
    "logging": training.Logging,
}


def grouped(**options):
    """The arguments of `fit` of options by name, whichever group they belong to."""
    for group, options_of in GROUPS.items():
        names = {field.name for field in fields(options_of)} & {*options}
        if names:
            options[group] = options_of(**{name: options.pop(name) for name in names})
    return options


def fit(module, data=None, **options):
    return training.fit(module, data, **grouped(**options))
