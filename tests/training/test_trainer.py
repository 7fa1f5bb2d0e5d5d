"""Interrupts, locks and extensions: whatever comes between, the run ends as if nothing had."""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.resumable_run import OPTIONS, losses_of, run, stop_at
from helpers.stand_ins import same_state, small_stack, some_points
from pyro_pcflow.ops.signals import Interrupts
from pyro_pcflow.training import pictures, toml, trainer
from pyro_pcflow.training.density import ExactLikelihood
from pyro_pcflow.training.metrics_file import MetricsFile
from pyro_pcflow.training.run_folder import RunFolder
from pyro_pcflow.training.schedule import Schedule

STEPS = 12
# A forward pass that writes cannot be repeated, and then the checkpoint before is what remains.
OFTEN = {"eval_every": 4, "tracks": False}
PACKAGE = Path(pcf.__file__).parent
SHORT = {"max_steps": 3, "device": "cpu", "batch_size": 50}
# Where an interrupt could find things half done.
LOOP = ("trainer.py", "checkpoint.py", "weights.py", "run_folder.py", "run_config.py", "metrics_file.py")
WATCHED = {str(PACKAGE / "training" / name) for name in LOOP}
WATCHED |= {str(PACKAGE / "ops" / name) for name in ("files.py", "random.py", "signals.py")}


@pytest.fixture(autouse=True)
def _usual_handlers():
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    assert {number: signal.getsignal(number) for number in usual} == usual
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    module, _ = run(out, max_steps=STEPS, **OFTEN)
    return out, module


@contextmanager
def signals_at(moments, number):
    """Send this process a signal at some of the lines that it comes to in the files above."""
    count = [0]

    def local(frame, event, _):
        # Before and after, a signal ends the process, as it ends any other.
        if event == "line" and isinstance(signal.getsignal(number), Interrupts):
            count[0] += 1
            if count[0] in moments:
                signal.raise_signal(number)
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: local if frame.f_code.co_filename in WATCHED else None)
    try:
        yield count
    finally:
        sys.settrace(before)


def step_of(out):
    return torch.load(out / "checkpoint.pt")["step"]


def check_same(out, whole):
    module, _ = run(out, max_steps=STEPS, **OFTEN)
    assert same_state(module.state_dict(), whole[1].state_dict())
    assert same_state(torch.load(out / "model.pt"), torch.load(whole[0] / "model.pt"))
    assert losses_of(out) == losses_of(whole[0])
    assert {file.name for file in out.iterdir()} == {file.name for file in whole[0].iterdir()}


class TestAnyLine:
    """An interrupt at any line of the loop, of its files and of its handlers, one line in some hundred."""

    @pytest.mark.parametrize("twice", [False, True])
    @pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.exhaustive) for part in range(1, 10))])
    # An interrupt between the opening of a file and its block leaves the closing to the collector.
    @pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
    @pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
    def test_the_end_is_the_same(self, tmp_path, whole, part, twice, monkeypatch):
        def deliver(interrupts):
            """What the default handler would be told, which ends the process."""
            if interrupts._received and not interrupts._answered:
                raise KeyboardInterrupt("interrupted before the first step or after the last: --resume")

        monkeypatch.setattr(Interrupts, "deliver", deliver)
        with signals_at((), signal.SIGTERM) as count:
            run(tmp_path / "counted", max_steps=STEPS, **OFTEN, checkpoint_every=1000)
        draw = random.Random(part + 100 * twice)
        stopped = 0
        for number in range(12):
            out = tmp_path / str(number)
            moment = draw.randrange(count[0])
            moments = {moment, moment + draw.randrange(1, 40)} if twice else {moment}
            said = ""
            try:
                with signals_at(moments, signal.SIGTERM):
                    run(out, max_steps=STEPS, **OFTEN, checkpoint_every=1000)
            except KeyboardInterrupt as error:
                stopped += 1
                said = str(error)
            if said:
                # Nothing but the step that was under way is lost.
                found = re.match(r"interrupted (?:at step ([0-9]+)|before the first step).*--resume|SIGTERM$", said)
                assert found is not None, said
                step = int(found[1] or 0)
                assert step == 0 or step_of(out) == step, said
            check_same(out, whole)
        assert stopped >= 10


class TestMoments:
    def test_an_evaluation(self, tmp_path, whole, monkeypatch):
        evaluate, calls = ExactLikelihood.evaluate, []

        def stopping(self):
            calls.append(1)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGTERM)
            return evaluate(self)

        with monkeypatch.context() as patch:
            patch.setattr(ExactLikelihood, "evaluate", stopping)
            with pytest.raises(KeyboardInterrupt, match=r"interrupted at step 8; .* checkpoint of step 8: .*--resume"):
                run(tmp_path, max_steps=STEPS, **OFTEN, checkpoint_every=1000)
        assert step_of(tmp_path) == 8
        assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1] == 6
        check_same(tmp_path, whole)

    def test_the_writing_of_a_line(self, tmp_path, whole, monkeypatch):
        append = MetricsFile.append

        def stopping(self, line):
            append(self, line)
            if line["step"] == 8:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(MetricsFile, "append", stopping)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, max_steps=STEPS, **OFTEN, checkpoint_every=1000)
        check_same(tmp_path, whole)

    def test_the_writing_of_the_model_and_of_pictures(self, tmp_path, monkeypatch):
        def stop(*args, **options):
            signal.raise_signal(signal.SIGTERM)

        flow = pcf.PointCloudFlow(2, num_couplings=1, hidden_dims=[4])
        options = {"max_steps": 3, "out": tmp_path, "resume": True, "device": "cpu"}
        points = some_points(point_dim=2)
        monkeypatch.setattr("pyro_pcflow.training.pictures.animate", lambda points, path, **options: path)
        for owner, name in ((RunFolder, "write_model"), (pictures, "write_pictures")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, stop)
                with pytest.raises(KeyboardInterrupt, match="checkpoint of step 3: continue"):
                    fit(flow, points, **options)
        assert not (tmp_path / "samples.png").exists()
        fit(flow, points, **options)
        assert (tmp_path / "samples.png").exists()

    def test_one_that_was_made_another_error_on_its_way(self, tmp_path):
        def disguise(call):
            if call == 5:
                try:
                    signal.raise_signal(signal.SIGTERM)
                except KeyboardInterrupt as error:
                    raise RuntimeError("Error calling __set_name__") from error

        with pytest.raises(KeyboardInterrupt, match="checkpoint of step 4"):
            run(tmp_path, max_steps=STEPS, before_step=disguise, checkpoint_every=1000)
        assert step_of(tmp_path) == 4

    def test_a_second_signal_waits_for_the_checkpoint(self, tmp_path, monkeypatch):
        save = torch.save

        def slowly(*args):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            save(*args)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", slowly)
            with pytest.raises(KeyboardInterrupt, match="step 0"):
                run(tmp_path, max_steps=STEPS)
        assert step_of(tmp_path) == 0

    def test_without_a_folder_it_says_what_the_module_holds(self):
        with pytest.raises(KeyboardInterrupt, match="at step 2: the module holds the averaged weights"):
            fit(small_stack(before_step=stop_at(3)), some_points(), max_steps=9, device="cpu")

    def test_another_thread_trains_and_leaves_signals_alone(self, tmp_path):
        seen = []
        module = small_stack(before_step=lambda _: seen.append(signal.getsignal(signal.SIGTERM)))
        options = {"max_steps": 2, "out": tmp_path, "device": "cpu"}
        thread = threading.Thread(target=lambda: fit(module, some_points(), **options))
        thread.start()
        thread.join()
        assert seen == [signal.SIG_DFL] * 2


class TestExtension:
    def extended(self, out, *parts, **options):
        for steps in parts:
            module, result = run(out, max_steps=steps, **options)
        return module, result

    def config(self, out):
        return toml.loads((out / "config.toml").read_text())

    def test_a_run_that_has_ended_goes_on(self, tmp_path):
        _, result = self.extended(tmp_path, 20, 40, log_every=1, warmup_steps=5)
        assert result.steps == 40
        assert [line["step"] for line in result.history] == list(range(1, 41))
        rates = [line["lr"] for line in result.history]
        first = Schedule(3e-3, 5, max_steps=20)
        rest = Schedule(3e-3, 5, max_steps=40, start_step=20, start_rate=0.0)
        assert rates == [first.rate(step, 0) for step in range(20)] + [rest.rate(step, 0) for step in range(20, 40)]
        config = self.config(tmp_path)
        assert config["settings"]["max_steps"] == 40
        (entry,) = config["extended"]
        assert entry.pop("seconds") > 0
        assert entry == {"step": 20, "lr": 0.0, "ended": True, "max_steps": 20}

    def test_one_that_was_interrupted_keeps_its_rate(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, max_steps=20, before_step=stop_at(11), warmup_steps=4)
        _, result = self.extended(tmp_path, 60, log_every=1, warmup_steps=4)
        before = Schedule(3e-3, 4, max_steps=20).rate(10, 0)
        assert self.config(tmp_path)["extended"][0]["lr"] == before
        target = Schedule(3e-3, 0, max_steps=60)
        for number, share in ((10, 0.25), (11, 0.5), (13, 1.0)):
            expected = before + share * (target.rate(number, 0) - before)
            lines = [line for line in result.history if line["step"] == number + 1]
            assert lines[0]["lr"] == pytest.approx(expected, rel=1e-12)

    def test_interrupts_change_no_bit_of_it(self, tmp_path):
        module, _ = self.extended(tmp_path / "whole", 20, 40, 50)
        for parts in ((20, 40, 50),):
            for steps in parts:
                for call in (1, 4, 6):
                    try:
                        run(tmp_path / "cut", max_steps=steps, before_step=stop_at(call), checkpoint_every=7)
                    except KeyboardInterrupt:
                        continue
                again, _ = run(tmp_path / "cut", max_steps=steps)
        assert same_state(again.state_dict(), module.state_dict())
        assert losses_of(tmp_path / "cut") == losses_of(tmp_path / "whole")
        assert [entry["step"] for entry in self.config(tmp_path / "cut")["extended"]] == [20, 40]

    def test_one_that_had_not_begun_is_as_if_it_was_longer_from_the_start(self, tmp_path):
        run(tmp_path / "long", max_steps=30)
        run(tmp_path / "run", max_steps=3)
        (tmp_path / "run" / "checkpoint.pt").unlink()
        (tmp_path / "run" / "model.pt").unlink()
        run(tmp_path / "run", max_steps=30)
        assert losses_of(tmp_path / "run") == losses_of(tmp_path / "long")

    def test_more_seconds(self, tmp_path, monkeypatch):
        clock = SimpleNamespace(now=0.0)

        def tick(_):
            clock.now += 1.0

        monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        for limit in (10.0, 30.0):
            options = {"max_seconds": limit, "out": tmp_path, "resume": True, "device": "cpu", "log_every": 1}
            result = fit(small_stack(before_step=tick), some_points(), warmup_steps=2, **options)
        assert result.seconds == 30.0
        assert result.steps == 30
        rates = [line["lr"] for line in result.history]
        # The clock is read after the forward pass.
        expected = Schedule(3e-3, 0, max_seconds=30.0)
        assert rates[9] == pytest.approx(0.0, abs=1e-9)
        assert rates[10] == pytest.approx(expected.rate(0, 11.0) / 2)
        assert rates[11:] == pytest.approx([expected.rate(0, now) for now in range(12, 31)], abs=1e-12)
        (entry,) = self.config(tmp_path)["extended"]
        assert (entry["seconds"], entry["max_seconds"], entry["ended"]) == (10.0, 10.0, True)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"max_steps": 7}, "max_steps was 8 and is 7, but may only grow"),
            ({"max_steps": None, "max_seconds": 9.0}, "max_seconds was None and is 9.0; settings.max_steps was 8"),
            ({"max_steps": 99, "lr": 0.1}, "settings.lr was 0.003 and is 0.1"),
        ],
    )
    def test_nothing_but_larger_limits(self, tmp_path, options, words):
        run(tmp_path, max_steps=8)
        before = (tmp_path / "config.toml").read_bytes()
        with pytest.raises(ValueError, match=words):
            fit(small_stack(), some_points(), **{**OPTIONS, "out": tmp_path, "resume": True, **options})
        assert (tmp_path / "config.toml").read_bytes() == before

    @pytest.mark.parametrize("entry", ["5", "[1]", '[{step = "a", seconds = 1, lr = 1, ended = true}]', "[{step = 1}]"])
    def test_a_damaged_list_is_said_so(self, tmp_path, entry):
        run(tmp_path, max_steps=3)
        config = tmp_path / "config.toml"
        config.write_text(f"extended = {entry}\n{config.read_text()}")
        with pytest.raises(ValueError, match=r"config\.toml: damaged"):
            run(tmp_path, max_steps=5)


class TestCheckpoints:
    def test_by_time_as_well_as_by_steps(self, tmp_path, monkeypatch):
        clock, written = SimpleNamespace(now=0.0), []

        def tick(call):
            clock.now += 1.0

        write = RunFolder.write_checkpoint
        monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        monkeypatch.setattr(
            RunFolder, "write_checkpoint", lambda self, state: (written.append(state["step"]), write(self, state))
        )
        run(tmp_path, max_steps=30, before_step=tick, checkpoint_every=20, checkpoint_seconds=7.0)
        assert written == [0, 7, 14, 20, 27, 30]
        with pytest.raises(ValueError, match="checkpoint_seconds must be positive"):
            run(tmp_path, checkpoint_seconds=0)
