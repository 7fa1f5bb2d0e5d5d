"""Whether a resumed run is that of the folder, and names of older files."""

from __future__ import annotations

import pytest

from pyro_pcflow.training import toml
from pyro_pcflow.training.options import CloudSampling, Logging, Optimization, Settings
from pyro_pcflow.training.run_config import RunConfig

NEW = {
    "settings": {"max_steps": 9, "lr": 0.1, "log_every": 2},
    "data": {"clouds": 4, "batch_size": 2, "noise": 0.5, "target_points": 7, "encoder_points": 8, "held_out": 0.1},
    "module": {"class": "Mine", "config": {"decoder": {"coupling": "additive", "lu_linear": True}}},
}
OLD = {
    "settings": {
        "max_steps": 9,
        "lr": 0.1,
        "log_every": 3,
        "batch_size": 2,
        "noise": 0.5,
        "points_per_cloud": 7,
        "seen_points": 8,
        "kl_warmup_steps": 0,
        "held_out": 0.1,
    },
    "data": {"clouds": 4},
    "module": {"class": "Mine", "config": {"decoder": {"affine": False, "mixing": True}}},
}


def compared(folder, earlier, now):
    (folder / "config.toml").write_text(toml.dumps(earlier))
    config = RunConfig(folder / "config.toml", now)
    config.compare()
    return config


def test_an_older_file_is_the_same_run(tmp_path):
    assert compared(tmp_path, OLD, NEW).limits_before is None


@pytest.mark.parametrize(
    ("name", "found"), [("points_per_cloud", "data.target_points was 6 and is 7"), ("noise", "data.noise was 6")]
)
def test_a_difference_from_an_older_file_is_told(name, found, tmp_path):
    with pytest.raises(ValueError, match=found):
        compared(tmp_path, {**OLD, "settings": {**OLD["settings"], name: 6}}, NEW)


def test_of_points_options_of_clouds_are_left_out(tmp_path):
    data = {name: value for name, value in NEW["data"].items() if not name.endswith("_points")}
    compared(tmp_path, OLD, {**NEW, "data": data})
    with pytest.raises(ValueError, match=r"data\.target_points was 7 and is None"):
        compared(tmp_path, NEW, {**NEW, "data": data})


def test_limits_may_grow_and_the_file_says_where(tmp_path):
    longer = {**NEW, "settings": {**NEW["settings"], "max_steps": 20}}
    config = compared(tmp_path, NEW, longer)
    assert config.limits_before == {"max_steps": 9}
    config.extend(9, 1.0, 0.05, ended=True)
    config.write()
    again = compared(tmp_path, toml.read(tmp_path / "config.toml"), longer)
    assert again.limits_before is None
    assert again.extensions == [{"step": 9, "seconds": 1.0, "lr": 0.05, "ended": True, "max_steps": 9}]
    with pytest.raises(ValueError, match="but may only grow"):
        compared(tmp_path, longer, NEW)


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


def test_an_older_run_that_knew_no_patience_did_not_stop_early(tmp_path):
    older = config_of(Optimization())
    del older["settings"]["patience"]
    RunConfig(tmp_path / "config.toml", older).write()
    RunConfig(tmp_path / "config.toml", config_of(Optimization(patience=None))).compare()
    with pytest.raises(ValueError, match=r"settings.patience was None and is 5\. Repeat"):
        RunConfig(tmp_path / "config.toml", config_of(Optimization(patience=5))).compare()
