from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.resumable_run import FILES, OPTIONS, STEPS, losses_of, run, stop_at
from helpers.stand_ins import DiagonalGaussian, same_state, small_stack, some_points
from pyro_pcflow.training import trainer


class TestResume:
    @pytest.mark.parametrize("seed", range(6))
    def test_interrupted_runs_end_with_the_same_bits(self, uninterrupted, tmp_path, seed):
        moments = random.Random(seed)
        for _ in range(3):
            state = torch.get_rng_state()
            with pytest.raises(KeyboardInterrupt):
                run(
                    tmp_path,
                    before_step=stop_at(moments.randint(1, STEPS // 4)),
                    checkpoint_every=moments.randint(1, 9),
                )
            assert torch.equal(torch.get_rng_state(), state)
        module, result = run(tmp_path)
        assert same_state(module.state_dict(), uninterrupted[1].state_dict())
        assert same_state(torch.load(tmp_path / "model.pt"), torch.load(uninterrupted[0] / "model.pt"))
        assert losses_of(tmp_path) == losses_of(uninterrupted[0])
        assert result.history[-1]["nats_per_point"] == uninterrupted[2].nats_per_point

    def test_an_interrupt_saves_the_step_it_stopped_before(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, before_step=stop_at(8), checkpoint_every=1000)
        assert torch.load(tmp_path / "checkpoint.pt")["step"] == 7

    def test_an_interrupt_amid_an_update_keeps_the_checkpoint_before(self, tmp_path, monkeypatch):
        class Interrupting(torch.optim.AdamW):
            calls = 0

            def step(self, closure=None):
                super().step()
                Interrupting.calls += 1
                if Interrupting.calls == 8:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim, "AdamW", Interrupting)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "stopped", checkpoint_every=5, tracks=False)
        assert torch.load(tmp_path / "stopped" / "checkpoint.pt")["step"] == 5
        module, _ = run(tmp_path / "stopped", tracks=False)
        whole, _ = run(tmp_path / "whole", tracks=False)
        assert same_state(module.state_dict(), whole.state_dict())

    def test_an_interrupt_after_a_forward_pass_that_wrote(self, tmp_path, uninterrupted, monkeypatch):
        original, calls = torch.Tensor.backward, []

        def backward(self):
            calls.append(1)
            if len(calls) == 8:
                raise KeyboardInterrupt
            original(self)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "backward", backward)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, checkpoint_every=5)
        # The stand-in's running statistic has taken in the batch that will be repeated.
        assert torch.load(tmp_path / "checkpoint.pt")["step"] == 5
        module, _ = run(tmp_path)
        assert same_state(module.state_dict(), uninterrupted[1].state_dict())

    def test_a_first_layer_that_takes_its_weights_from_data(self, tmp_path):
        def flow():
            torch.manual_seed(3)
            return pcf.PointCloudFlow(num_couplings=2, hidden_dims=[8], act_norm=True)

        options = {"max_steps": 12, "batch_size": 100, "device": "cpu", "checkpoint_every": 3, "pictures": False}
        whole = flow()
        fit(whole, some_points(), out=tmp_path / "whole", **options)
        stopped = flow()
        log_prob, calls = stopped.log_prob, []

        def stopping(points):
            calls.append(1)
            if len(calls) == 8:
                raise KeyboardInterrupt
            return log_prob(points)

        stopped.log_prob = stopping
        with pytest.raises(KeyboardInterrupt):
            fit(stopped, some_points(), out=tmp_path / "stopped", **options)
        # Resumed in a new module with other first weights: the checkpoint decides.
        again = pcf.PointCloudFlow(num_couplings=2, hidden_dims=[8], act_norm=True)
        fit(again, some_points(), out=tmp_path / "stopped", resume=True, **options)
        assert same_state(again.state_dict(), whole.state_dict())

    def test_after_an_interrupt_the_module_holds_averaged_weights(self, tmp_path):
        module = small_stack(before_step=stop_at(20))
        with pytest.raises(KeyboardInterrupt):
            fit(module, some_points(), max_steps=STEPS, out=tmp_path, patience=None, **OPTIONS)
        averages = torch.load(tmp_path / "checkpoint.pt")["averages"]
        assert same_state(averages, {name: weight.data for name, weight in module.named_parameters()})

    def test_resuming_a_finished_run_changes_nothing(self, uninterrupted, tmp_path):
        shutil.copytree(uninterrupted[0], tmp_path / "run")
        module, result = run(tmp_path / "run")
        assert same_state(module.state_dict(), uninterrupted[1].state_dict())
        assert result.nats_per_point == uninterrupted[2].nats_per_point
        assert result.history == uninterrupted[2].history
        assert result.steps == STEPS

    @pytest.mark.parametrize("folder", ["", "not/there/yet"])
    def test_resuming_nothing_starts(self, tmp_path, folder):
        assert run(tmp_path / folder, max_steps=3)[1].steps == 3

    def test_a_run_stopped_before_its_first_checkpoint_starts_again(self, uninterrupted, tmp_path):
        shutil.copy(uninterrupted[0] / "config.toml", tmp_path)
        (tmp_path / ".checkpoint.pt.0123456789abcdef.tmp").write_bytes(b"half")
        module, _ = run(tmp_path)
        assert same_state(module.state_dict(), uninterrupted[1].state_dict())
        assert {file.name for file in tmp_path.iterdir()} == FILES

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"lr": 0.01}, "settings.lr was 0.003 and is 0.01"),
            ({"max_steps": 39}, "settings.max_steps was 40 and is 39, but may only grow"),
            ({"max_seconds": 9.0}, "settings.max_seconds was None and is 9.0"),
            ({"held_out": 0.2}, "data.held_out"),
            ({"seed": 1, "batch_size": 32}, "settings.seed .* data.batch_size"),
        ],
    )
    def test_other_settings_are_refused_by_name(self, uninterrupted, options, named):
        with pytest.raises(ValueError, match=named):
            run(uninterrupted[0], **options)

    def test_other_data_and_another_module_are_refused(self, uninterrupted):
        with pytest.raises(ValueError, match=r"data\.sha256"):
            fit(small_stack(), some_points() + 1e-6, max_steps=STEPS, out=uninterrupted[0], resume=True, **OPTIONS)
        with pytest.raises(ValueError, match=r"module\.class"):
            fit(DiagonalGaussian(), some_points(), max_steps=STEPS, out=uninterrupted[0], resume=True, **OPTIONS)

    def test_a_module_with_other_state_is_refused(self, uninterrupted, tmp_path):
        shutil.copytree(uninterrupted[0], tmp_path / "run")
        module = small_stack()
        module.register_buffer("another", torch.zeros(1))
        with pytest.raises(ValueError, match="does not fit the module"):
            fit(module, some_points(), max_steps=STEPS, out=tmp_path / "run", resume=True, **OPTIONS)

    @pytest.mark.parametrize("content", [b"", b"junk", None])
    def test_a_damaged_checkpoint_is_said_so(self, uninterrupted, tmp_path, content):
        shutil.copytree(uninterrupted[0], tmp_path / "run")
        checkpoint = tmp_path / "run" / "checkpoint.pt"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100] if content is None else content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint of a run, or damaged"):
            run(tmp_path / "run")

    def test_state_that_could_not_be_read_again_is_refused_when_written(self, tmp_path):
        class Odd(DiagonalGaussian):
            def get_extra_state(self):
                return {"path": Path("x")}

        module = Odd()
        with pytest.raises(TypeError, match=r"_extra_state.*path.*PosixPath"):
            fit(module, some_points(), max_steps=3, out=tmp_path, device="cpu")
        assert not (tmp_path / "checkpoint.pt").exists()

    def test_seconds_add_up_over_the_parts_of_a_run(self, tmp_path, monkeypatch):
        ticks = itertools.count()
        monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: 0.1 * next(ticks)))
        options = {"max_seconds": 20.0, "out": tmp_path, "resume": True, "device": "cpu"}
        with pytest.raises(KeyboardInterrupt):
            fit(small_stack(before_step=stop_at(15)), some_points(), **options)
        before = torch.load(tmp_path / "checkpoint.pt")
        assert before["step"] == 14
        result = fit(small_stack(), some_points(), **options)
        whole = fit(small_stack(), some_points(), max_seconds=20.0, device="cpu")
        # Callbacks are told the time, too.
        assert before["seconds"] < 20 <= result.seconds < 22
        assert result.steps == pytest.approx(whole.steps, abs=5)
