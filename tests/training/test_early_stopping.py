"""Early stopping: the best weights by the held-out score stay, and a resumed run ends with the same bits."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_pcflow as pcf
from helpers.flat_fit import fit
from helpers.resumable_run import losses_of
from helpers.stand_ins import DiagonalGaussian, same_state, some_points
from pyro_pcflow.training import Callback, EvidenceLowerBound, ExactLikelihood
from pyro_pcflow.training.early_stopping import BestEvaluation

# Points at 5 are trained on and points at 1 are scored: on its way from 0 the score rises, and then falls.
TRAINED, SCORED = 5 + 0.1 * some_points(), 1 + 0.1 * some_points(count=100)
STEPS, PATIENCE = 40, 3
OPTIONS = {
    "max_steps": STEPS,
    "patience": PATIENCE,
    "lr": 0.2,
    "device": "cpu",
    "log_every": 1,
    "eval_every": 2,
    "checkpoint_every": 1000,
    "warmup_steps": 0,
    "ema_decay": 0.5,
}


class Weights(Callback):
    """What was evaluated, and the scores; stops before the line of a step, or amid its evaluation."""

    def __init__(self, stop=None, *, amid=None):
        self.seen, self.stop, self.amid = [], stop, amid

    def on_evaluation(self, progress, scores):
        if progress.step == self.amid:
            raise KeyboardInterrupt
        self.seen.append((scores["nats_per_point"], {k: v.clone() for k, v in progress.module.state_dict().items()}))

    def on_log(self, progress, line):
        if progress.step == self.stop:
            raise KeyboardInterrupt


def train(callback, out=None, **options):
    module = DiagonalGaussian()
    module.log_scale.requires_grad_(False)
    options = {"batch_size": 64, **OPTIONS, **options}
    result = fit(module, TRAINED, held_out=SCORED, callbacks=[callback], out=out, resume=out is not None, **options)
    return module, result


class TwoPhases(ExactLikelihood):
    """First the place alone, then the width alone."""

    second_phase = 0.75

    def held(self):
        return [self.module.log_scale if self.progress < self.second_phase else self.module.loc]


def train_in_two_phases(callback, out=None, **options):
    module = DiagonalGaussian()
    objective = TwoPhases(module, TRAINED, held_out=SCORED, batch_size=64)
    options = {**OPTIONS, **options}
    result = fit(module, objective=objective, callbacks=[callback], out=out, resume=out is not None, **options)
    return module, result


def train_in_due_phases(callback, out=None, **options):
    """The second phase begins when it is due, at a step without an evaluation of its own."""
    return train_in_two_phases(callback, out, **{"patience": 1000, "eval_every": 4, **options})


@pytest.mark.parametrize("patience", [1, 3, 1000])
def test_the_best_evaluated_weights_stay(patience):
    callback = Weights()
    module, result = train(callback, patience=patience)
    scores, states = zip(*callback.seen, strict=True)
    best = scores.index(max(scores))
    assert 0 < best < len(scores) - 1
    assert len(scores) == min(best + 1 + patience, STEPS // 2)
    assert result.steps == 2 * len(scores)
    assert result.nats_per_point == scores[best]
    assert same_state(module.state_dict(), states[best])


# An evaluation is due after even steps, and its line is written after it: it is repeated, and counted once. Of two
# phases the first ends on the way.
@pytest.mark.parametrize(
    ("train", "stop"),
    [(train, stop) for stop in (1, 3, 4, 9, 10, 12)]
    + [(train_in_two_phases, stop) for stop in (3, 4, 9, 10, 11, 12, 13, 14, 16)]
    + [(train_in_due_phases, stop) for stop in (29, 30, 31, 32, 33)],
)
def test_a_stopped_run_ends_with_the_same_bits(train, stop, tmp_path):
    whole, result = train(Weights(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Weights(stop), tmp_path / "stopped")
    resumed, again = train(Weights(), tmp_path / "stopped")
    assert stop <= result.steps <= STEPS
    assert (result.steps < STEPS) == (train is not train_in_due_phases)
    assert (again.steps, again.scores) == (result.steps, result.scores)
    assert same_state(resumed.state_dict(), whole.state_dict())
    assert same_state(torch.load(tmp_path / "stopped" / "model.pt"), torch.load(tmp_path / "whole" / "model.pt"))
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")


@pytest.mark.parametrize("step", [28, 30, 32])
def test_a_run_that_stops_amid_an_evaluation_ends_with_the_same_bits(step, tmp_path):
    whole, result = train_in_due_phases(Weights(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_in_due_phases(Weights(amid=step), tmp_path / "stopped")
    assert torch.load(tmp_path / "stopped" / "checkpoint.pt")["step"] == step
    resumed, again = train_in_due_phases(Weights(), tmp_path / "stopped")
    assert again.scores == result.scores
    assert same_state(resumed.state_dict(), whole.state_dict())
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "whole")


def test_a_run_that_has_stopped_early_stays_so(tmp_path):
    first, result = train(Weights(), tmp_path)
    for max_steps in (STEPS, 2 * STEPS):
        again, repeated = train(Weights(), tmp_path, max_steps=max_steps)
        assert repeated.steps == result.steps
        assert same_state(again.state_dict(), first.state_dict())


def test_where_patience_ends_the_first_phase_the_second_begins_with_the_best_weights():
    callback = Weights()
    module, result = train_in_two_phases(callback, patience=PATIENCE)
    scores, states = zip(*callback.seen, strict=True)
    places = [state["loc"] for state in states]
    first = [score for score, state in callback.seen if not state["log_scale"].any()]
    best = first.index(max(first))
    assert best > 0
    assert len(first) == best + 1 + PATIENCE < STEPS // 2 * TwoPhases.second_phase
    assert all(torch.equal(place, places[best]) for place in places[len(first) :])
    # Points at 5 seem wide from about 1, and those at 1 are narrow: each evaluation is worse than the best.
    assert len(scores) == len(first) + PATIENCE
    assert result.nats_per_point == scores[best]
    assert same_state(module.state_dict(), states[best])


# The first phase ends after 30 of 40 steps. Its best evaluation is an early one, and patience would end in the second.
@pytest.mark.parametrize("patience", [1000, 8])
def test_a_second_phase_that_is_due_begins_with_the_best_weights(patience):
    callback = Weights()
    module, result = train_in_due_phases(callback, patience=patience)
    scores, states = zip(*callback.seen, strict=True)
    first = [score for score, state in callback.seen if not state["log_scale"].any()]
    best = first.index(max(first))
    # After each fourth step, and where the phase ends.
    assert len(first) == 30 // 4 + 1
    assert 0 < best < len(first) - 1
    assert all(torch.equal(state["loc"], states[best]["loc"]) for state in states[len(first) :])
    assert result.steps == STEPS
    assert len(scores) == len(first) + 3
    assert same_state(module.state_dict(), states[scores.index(max(scores))])


def test_a_second_phase_that_is_hastened_ends_before_the_limits():
    callback = Weights()
    # Patience outlasts the second phase, which has a quarter of the steps.
    _, result = train_in_two_phases(callback, max_steps=60, patience=9)
    first = [score for score, state in callback.seen if not state["log_scale"].any()]
    assert len(first) < 60 // 2 * TwoPhases.second_phase
    assert result.steps == 2 * len(first) + 15


def test_a_hastened_run_that_is_extended_and_killed_at_once_goes_on_alike(tmp_path):
    class Killed(Callback):
        def on_start(self, progress):
            raise RuntimeError("killed")

    for name in ("whole", "killed"):
        # The second phase ends before patience does.
        train_in_two_phases(Weights(), tmp_path / name, max_steps=60, patience=9)
    with pytest.raises(RuntimeError, match="killed"):
        train_in_two_phases(Killed(), tmp_path / "killed", max_steps=80, patience=9)
    whole, result = train_in_two_phases(Weights(), tmp_path / "whole", max_steps=80, patience=9)
    again, repeated = train_in_two_phases(Weights(), tmp_path / "killed", max_steps=80, patience=9)
    assert (repeated.steps, repeated.scores) == (result.steps, result.scores)
    assert same_state(again.state_dict(), whole.state_dict())
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")


def test_it_needs_held_out_data(tmp_path):
    with pytest.raises(ValueError, match="patience compares scores of held-out data, and there is none"):
        fit(DiagonalGaussian(), some_points(), held_out=0, patience=2, max_steps=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_it_needs_a_score():
    class Scored(ExactLikelihood):
        def evaluate(self):
            return {"accuracy": 1.0}

    module = DiagonalGaussian()
    with pytest.raises(ValueError, match="patience compares the score 'nats_per_point'"):
        fit(module, objective=Scored(module, some_points()), max_steps=1, patience=1, device="cpu")


@pytest.mark.parametrize("scores", [[math.nan, 1.0], [-math.inf, 1.0], [0.0, 1.0]])
def test_what_is_better(scores):
    best = None
    for step, score in enumerate([*scores, math.nan, 1.0]):
        best = BestEvaluation.after(best, torch.tensor([float(step)]), {"nats_per_point": score}, "nats_per_point")
    assert best.averages.item() == 1.0
    assert best.waited == 2


def test_the_weights_are_a_copy():
    averages = torch.zeros(3)
    best = BestEvaluation.after(None, averages, {"nats_per_point": 0.0}, "nats_per_point")
    averages.fill_(1.0)
    assert best.averages.sum() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda best: best.update(waited=-1), "waited: expected a number of at least 0"),
        (lambda best: best["averages"].popitem(), "best, averages: other entries than the module has"),
        (
            lambda best: next(iter(best["averages"].values())).fill_(math.nan),
            "best, averages, .*: numbers that are not",
        ),
        (lambda best: best.update(scores={}), "best: expected the score nats_per_point"),
        (lambda best: best.update(scores={"nats_per_point": "high"}), "scores: expected a number for each name"),
    ],
)
def test_a_damaged_checkpoint_is_refused(change, words, tmp_path):
    train(Weights(), tmp_path, max_steps=4)
    state = torch.load(tmp_path / "checkpoint.pt")
    change(state["best"])
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=words):
        train(Weights(), tmp_path, max_steps=4)


def few(count, **options):
    return ExactLikelihood(DiagonalGaussian(), some_points(count=count), **options)


class TestLeftToFit:
    """Few points would be learnt by heart: unless it is told otherwise, `fit` stops early."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"count": 50}, (50, 5)),
            ({"count": 20_000, "held_out": some_points(count=10)}, (50, 5)),
            ({"count": 20_001, "held_out": some_points(count=10)}, (500, None)),
            ({"count": 50, "held_out": 0}, (500, None)),
        ],
    )
    def test_it_depends_on_the_points_and_on_what_is_held_out(self, options, expected):
        objective = few(**options)
        assert (objective.eval_every, objective.patience) == expected

    @pytest.mark.parametrize(
        ("count", "held_out", "expected"), [(20, 0.1, (100, 10)), (20, 0, (500, None)), (450, 0.1, (500, None))]
    )
    def test_it_depends_on_the_clouds(self, count, held_out, expected):
        vae = pcf.PointCloudVAE(2, 2, decoder={"num_couplings": 2, "hidden_dims": [4]})
        objective = EvidenceLowerBound(vae, torch.randn(count, 8, 2), held_out=held_out)
        assert (objective.eval_every, objective.patience) == expected

    def train(self, **options):
        module = DiagonalGaussian()
        options = {"max_steps": 2000, "lr": 0.005, "device": "cpu", **options}
        return module, fit(module, TRAINED, held_out=SCORED, **options)

    def test_a_training_on_few_points_ends_with_the_best_weights_and_says_so(self, caplog, tmp_path):
        callback = Weights()
        module, result = self.train(callbacks=[callback], out=tmp_path, pictures=False)
        scores, states = zip(*callback.seen, strict=True)
        best = scores.index(max(scores))
        assert best > 0
        assert result.steps == 50 * (best + 6) == 50 * len(scores) < 2000
        assert same_state(module.state_dict(), states[best])
        said = (
            f"stopped early, after {result.steps} steps: 5 evaluations in a row came to no more than {max(scores):.3f}"
        )
        assert said in caplog.text
        assert "patience = 5\n" in (tmp_path / "config.toml").read_text()

    def test_what_is_given_counts(self, caplog):
        _, result = self.train(patience=None, max_steps=400)
        assert result.steps == 400
        assert [line["step"] for line in result.history if "nats_per_point" in line] == [*range(50, 401, 50)]
        _, result = self.train(patience=2, eval_every=10)
        waited = [line["step"] for line in result.history if "nats_per_point" in line]
        assert waited == [*range(10, result.steps + 1, 10)]
        assert caplog.text.count("stopped early") == 1
