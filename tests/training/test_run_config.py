"""What a run was started with, and whether a resumed one is the same."""

from __future__ import annotations

import pytest

from pyro_pcflow.training.options import CloudSampling, Logging, Optimization, Settings
from pyro_pcflow.training.run_config import RunConfig


def config_of(optimization):
    settings = Settings(5, None, 1e-3, 0, optimization, Logging()).plain()
    return {"settings": settings, "data": dict(vars(CloudSampling())), "module": {"config": {}}}


def test_an_option_that_an_older_run_did_not_know_had_its_default(tmp_path):
    older = config_of(Optimization())
    del older["settings"]["grad_clip"], older["data"]["kl_warmup_steps"]
    RunConfig(tmp_path / "config.toml", older).write()
    RunConfig(tmp_path / "config.toml", config_of(Optimization())).compare()
    with pytest.raises(ValueError, match=r"settings.grad_clip was 1.0 and is 5.0\. Repeat"):
        RunConfig(tmp_path / "config.toml", config_of(Optimization(grad_clip=5))).compare()
