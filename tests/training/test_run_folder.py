"""The files of a run: what they hold, who may write them, and what of the user stays."""

from __future__ import annotations

import gc
import json

import pytest
import torch
from filelock import FileLock

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.resumable_run import FILES, STEPS, run, steps_of, stop_at
from helpers.stand_ins import DiagonalGaussian, same_state, some_points
from pyro_pcflow.training import pictures, toml
from pyro_pcflow.training.run_folder import RunFolder

SHORT = {"max_steps": 3, "device": "cpu", "batch_size": 50}


class TestRunFolder:
    def test_holds_what_it_promises(self, uninterrupted):
        out, module, result = uninterrupted
        assert {file.name for file in out.iterdir()} == FILES
        assert steps_of(out) == sorted({*range(3, STEPS, 3), 10, 20, 30, 40})
        assert result.history == [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert result.out == out
        assert same_state(torch.load(out / "model.pt", weights_only=True), module.state_dict())

    def test_describes_the_run(self, uninterrupted):
        config = toml.loads((uninterrupted[0] / "config.toml").read_text())
        assert config["settings"]["max_steps"] == STEPS
        assert config["data"]["held_out"] == 0.1
        assert "max_seconds" not in config["settings"]
        assert config["data"]["points"] == 1800
        assert len(config["data"]["sha256"]) == 64
        assert config["module"]["class"] == "SmallStack"
        assert config["environment"]["torch"] == str(torch.__version__)

    def test_the_checkpoint_is_safe_to_load_and_complete(self, uninterrupted):
        state = torch.load(uninterrupted[0] / "checkpoint.pt", weights_only=True)
        assert state["step"] == STEPS
        assert {"module", "averages", "optimizer", "random", "seconds", "scores"} <= state.keys()
        weights, averages = state["module"]["layers.0.network.0.weight"], state["averages"]["layers.0.network.0.weight"]
        assert weights.shape == averages.shape
        assert not torch.equal(weights, averages)

    def test_final_weights_of_a_flow_load_as_a_flow(self, tmp_path):
        torch.manual_seed(0)
        flow = pcf.PointCloudFlow(point_dim=3, num_couplings=2, hidden_dims=[8])
        points = some_points()
        result = fit(flow, points, max_steps=5, out=tmp_path / "a" / "run", pictures=False, device="cpu")
        again = pcf.load(result.out / "model.pt")
        assert torch.equal(again.log_prob(points), flow.log_prob(points))
        assert toml.loads((result.out / "config.toml").read_text())["module"]["config"] == flow.config

    def test_nothing_is_overwritten(self, uninterrupted, tmp_path):
        before = {file.name: file.read_bytes() for file in uninterrupted[0].iterdir()}
        with pytest.raises(FileExistsError, match=r"resume=True .* another folder"):
            run(uninterrupted[0], resume=False)
        assert {file.name: file.read_bytes() for file in uninterrupted[0].iterdir()} == before
        (tmp_path / "model.pt").write_text("mine")
        for resume in (False, True):
            with pytest.raises(FileExistsError, match="choose another folder"):
                run(tmp_path, resume=resume)
        assert (tmp_path / "model.pt").read_text() == "mine"

    def test_other_files_stay(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        run(tmp_path, resume=False, max_steps=2)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_bad_data_leaves_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match="finite"):
            fit(DiagonalGaussian(), torch.full((9, 3), float("nan")), max_steps=1, out=tmp_path / "run")
        # Equal points are one, of which none can be held out.
        options = {"held_out": 0, "max_steps": 1, "out": tmp_path / "run", "device": "cpu"}
        with pytest.raises(ValueError, match="units"):
            fit(pcf.PointCloudFlow(num_couplings=1), torch.ones(9, 3), **options)
        assert not (tmp_path / "run").exists()


class TestLock:
    def test_a_second_run_beside_a_live_one_is_refused(self, tmp_path):
        refused = []

        def second(call):
            if call == 2:
                for resume in (False, True):
                    with pytest.raises(FileExistsError) as caught:
                        run(tmp_path / "run", max_steps=STEPS, resume=resume)
                    refused.append(str(caught.value))

        run(tmp_path / "run", max_steps=STEPS, before_step=second)
        assert "already holds a run" in refused[0]
        assert f"{tmp_path / 'run'}: process " in refused[1]
        assert "is training in this folder" in refused[1]
        run(tmp_path / "run", max_steps=STEPS)

    def test_it_is_free_after_an_error(self, tmp_path):
        with pytest.raises(OSError, match="mine"):
            run(tmp_path, max_steps=STEPS, before_step=stop_at(3, OSError("mine")))
        assert run(tmp_path, max_steps=STEPS)[1].steps == STEPS

    def test_two_that_looked_at_once_do_not_both_begin(self, tmp_path):
        first, second = (RunFolder(tmp_path, {"a": 1}, resume=False) for _ in range(2))
        with first.locked():
            pass
        with pytest.raises(FileExistsError, match="already holds a run"), second.locked():
            pytest.fail("began")

    def test_a_link_in_its_place_is_not_followed(self, tmp_path):
        (tmp_path / "mine").write_text("mine")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
        with pytest.raises(FileExistsError, match="is a link"):
            run(tmp_path / "run", max_steps=2)
        assert (tmp_path / "mine").read_text() == "mine"

    def test_a_lock_that_an_interrupt_left_to_the_collector_is_no_other_process(self, tmp_path):
        class Leftover:
            pass

        (tmp_path / "run").mkdir()
        leftover = Leftover()
        leftover.itself, leftover.lock = leftover, FileLock(tmp_path / "run" / ".lock")
        leftover.lock.acquire()
        gc.disable()
        try:
            del leftover
            with RunFolder(tmp_path / "run", {}, resume=True).locked():
                pass
        finally:
            gc.enable()

    def test_a_file_system_without_locks_is_told(self, tmp_path, monkeypatch):
        def acquire(*args, **options):
            raise NotImplementedError("FileSystem does not appear to support flock")

        monkeypatch.setattr("pyro_pcflow.training.run_folder.FileLock.acquire", acquire)
        with pytest.warns(UserWarning, match="no locks: make sure"):
            run(tmp_path, max_steps=2)


class TestForeignFiles:
    def flow(self):
        torch.manual_seed(0)
        return pcf.PointCloudFlow(2, num_couplings=1, hidden_dims=[4])

    @pytest.mark.parametrize("name", ["samples.png", "film.webp", "film.gif", "viewer.html"])
    def test_a_picture_of_the_users_stays(self, tmp_path, name):
        points = some_points(200, point_dim=2)
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name} is not of this run"):
            fit(self.flow(), points, out=tmp_path, **SHORT)
        assert [entry.name for entry in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "mine"
        fit(self.flow(), points, out=tmp_path, pictures=False, **SHORT)
        assert (tmp_path / name).read_text() == "mine"

    @pytest.mark.parametrize("name", ["samples.png", "model.pt"])
    def test_what_the_user_put_beside_an_interrupted_run_stays(self, tmp_path, name, monkeypatch):
        drawn = []

        def draw(flow, points, folder, **options):
            drawn.append(1)
            (folder / "samples.png").write_text(str(len(drawn)))

        monkeypatch.setattr(pictures, "write_pictures", draw)
        points = some_points(200, point_dim=2)
        flow = self.flow()
        log_prob, calls = flow.log_prob, []

        def stopping(values):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return log_prob(values)

        flow.log_prob = stopping
        with pytest.raises(KeyboardInterrupt):
            fit(flow, points, out=tmp_path, **SHORT)
        (tmp_path / name).write_text("mine")
        for limits in ({}, {"max_steps": 5}):
            with pytest.raises(FileExistsError, match=f"{name} is not of this run"):
                fit(self.flow(), points, out=tmp_path, resume=True, **{**SHORT, **limits})
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
        fit(self.flow(), points, out=tmp_path, resume=True, **SHORT)
        before = (tmp_path / name).read_bytes()
        # Those of an earlier end of the run are its own.
        fit(self.flow(), points, out=tmp_path, resume=True, **{**SHORT, "max_steps": 5})
        assert (tmp_path / name).read_bytes() != before
