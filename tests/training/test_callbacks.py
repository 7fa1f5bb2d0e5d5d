"""Callbacks see steps, losses, scores and the module, and change nothing."""

from __future__ import annotations

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.stand_ins import same_state, small_stack, some_points
from pyro_pcflow.training import Callback, TrainingDivergedError

OPTIONS = {"max_steps": 20, "batch_size": 64, "log_every": 5, "eval_every": 10, "device": "cpu"}


class Diary(Callback):
    """Writes down what happens, and draws random numbers."""

    def __init__(self):
        self.pages = []

    def note(self, event, progress, *more):
        torch.randn(3)
        weights = [parameter.detach().clone() for parameter in progress.module.parameters()]
        self.pages.append((event, progress, *more, progress.module.training, weights))

    def on_start(self, progress):
        self.note("start", progress)

    def on_log(self, progress, line):
        self.note("log", progress, line)

    def on_evaluation(self, progress, scores):
        assert not torch.is_grad_enabled()
        self.note("evaluation", progress, scores)

    def on_end(self, progress):
        self.note("end", progress)

    def of(self, event):
        return [page for page in self.pages if page[0] == event]


def test_what_they_see(tmp_path):
    module, diary, points = small_stack(), Diary(), some_points()
    result = fit(module, points, callbacks=[diary], out=tmp_path, seed=3, **OPTIONS)
    events = [(page[0], page[1].step) for page in diary.pages]
    assert events == [
        ("start", 0),
        ("log", 5),
        ("evaluation", 10),
        ("log", 10),
        ("log", 15),
        ("evaluation", 20),
        ("log", 20),
        ("end", 20),
    ]
    assert [page[2] for page in diary.of("log")] == result.history
    assert diary.of("evaluation")[-1][2] == result.scores
    progress = diary.pages[-1][1]
    assert progress.module is module
    assert progress.out == tmp_path
    assert progress.seed == 3
    assert progress.scores == result.scores
    assert progress.seconds == result.seconds
    assert progress.settings["settings"]["log_every"] == 5
    assert len(progress.objective.points_for_units()) == 1800


def test_when_it_holds_which_weights():
    module, diary = small_stack(), Diary()
    fit(module, some_points(), callbacks=[diary], **OPTIONS)
    final = [parameter.detach() for parameter in module.parameters()]
    (end,) = diary.of("end")
    evaluation, log = diary.of("evaluation")[-1], diary.of("log")[-1]
    for averaged in (end, evaluation):
        assert all(torch.equal(one, other) for one, other in zip(averaged[-1], final, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(log[-1], final, strict=True))
    assert not evaluation[-2]
    assert log[-2]


def test_they_change_no_bit(tmp_path):
    states = []
    for callbacks in ([], [Diary()]):
        module = small_stack()
        before = torch.get_rng_state()
        fit(module, some_points(), callbacks=callbacks, noise=0.1, **OPTIONS)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(module.state_dict())
    assert same_state(*states)


def test_a_resumed_run_starts_again_and_repeats_no_line(tmp_path):
    options = {**OPTIONS, "out": tmp_path, "resume": True}
    first, second = Diary(), Diary()
    fit(small_stack(), some_points(), callbacks=[first], **{**options, "max_steps": 10})
    fit(small_stack(), some_points(), callbacks=[second], **options)
    assert [(page[0], page[1].step) for page in second.pages][:2] == [("start", 10), ("log", 15)]


def test_an_error_is_the_users():
    class Broken(Callback):
        def on_log(self, progress, line):
            raise ZeroDivisionError("mine")

    module = small_stack()
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(module, some_points(), callbacks=[Broken()], **OPTIONS)
    # As after any other error, it is an ordinary module again.
    assert all(parameter.grad is None for parameter in module.parameters())
    fit(module, some_points(), **OPTIONS)


def test_there_is_no_end_after_a_divergence():
    module, diary = small_stack(), Diary()
    module.layers[0].network[4].break_at = 8
    with pytest.raises(TrainingDivergedError):
        fit(module, some_points(), callbacks=[diary], **OPTIONS)
    assert [page[0] for page in diary.pages] == ["start", "log"]


def test_files_of_the_user_are_kept_from_it(tmp_path):
    class Writes(Callback):
        def files(self, module):
            return ("notes.txt",)

        def on_end(self, progress):
            (progress.out / "notes.txt").write_text("ours")

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt is not of this run"):
        fit(small_stack(), some_points(), callbacks=[Writes()], out=tmp_path, **OPTIONS)
    (tmp_path / "notes.txt").unlink()
    fit(small_stack(), some_points(), callbacks=[Writes()], out=tmp_path, **OPTIONS)
    assert (tmp_path / "notes.txt").read_text() == "ours"


def test_a_function_is_no_callback():
    with pytest.raises(TypeError, match="callbacks: expected instances of"):
        fit(small_stack(), some_points(), callbacks=[print], max_steps=1)
    with pytest.raises(TypeError, match="callbacks: expected a list, got one Pictures"):
        fit(small_stack(), some_points(), callbacks=pcf.training.Pictures(), max_steps=1)
    assert pcf.training.Callback().files(small_stack()) == ()
