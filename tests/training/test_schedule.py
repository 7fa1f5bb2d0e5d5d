"""The learning rate over a training."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_pcflow.training.schedule import SECOND_RATE, Schedule


def test_warm_up_is_a_line_and_decay_half_a_cosine():
    schedule = Schedule(lr=2.0, warmup_steps=4, max_steps=1000)
    decay = [0.5 * (1 + math.cos(math.pi * step / 1000)) for step in range(5)]
    expected = [0.5 * decay[0], 1.0 * decay[1], 1.5 * decay[2], 2.0 * decay[3], 2.0 * decay[4]]
    assert [schedule.rate(step, 0.0) for step in range(5)] == pytest.approx(expected)
    assert schedule.rate(250, 0.0) == pytest.approx(1 + math.sqrt(0.5))
    assert schedule.rate(1000, 0.0) == 0.0


def test_whichever_ends_first_decides():
    schedule = Schedule(lr=1.0, warmup_steps=0, max_steps=100, max_seconds=10.0)
    assert schedule.progress(50, 1.0) == 0.5
    assert schedule.progress(10, 9.0) == 0.9
    assert schedule.progress(10, 99.0) == 1.0
    assert Schedule(1.0, 0, max_seconds=10.0).rate(10**9, 5.0) == pytest.approx(0.5)


def test_a_second_phase_begins_anew():
    schedule = Schedule(lr=2.0, warmup_steps=4, max_steps=1000, second_phase=0.75)
    first = Schedule(lr=2.0, warmup_steps=4, max_steps=750)
    second = Schedule(lr=2.0 * SECOND_RATE, warmup_steps=4, max_steps=250)
    for step in (0, 3, 100, 749):
        assert schedule.rate(step, 0.0) == pytest.approx(first.rate(step, 0.0))
    for step in (0, 2, 100, 250):
        assert schedule.rate(750 + step, 0.0) == pytest.approx(second.rate(step, 0.0))
        assert schedule.steps_of_phase(750 + step, 0.0) == pytest.approx(step)
    assert schedule.steps_of_phase(749, 0.0) == 749
    assert Schedule(1.0, 0, max_steps=10).steps_of_phase(10, 0.0) == 10
    assert Schedule(1.0, 0, max_steps=10, second_phase=0.0).steps_of_phase(0, 0.0) == 0


def test_a_second_phase_that_is_hastened_takes_as_long_as_it_would_have():
    planned = Schedule(lr=2.0, warmup_steps=4, max_steps=1000, second_phase=0.75)
    hastened = planned.hastened(300, 0.0)
    for step in range(300):
        assert hastened.rate(step, 0.0) == planned.rate(step, 0.0)
        assert hastened.progress(step, 0.0) == planned.progress(step, 0.0)
    assert planned.is_in_first_of_two(300, 0.0)
    assert not hastened.is_in_first_of_two(300, 0.0)
    for step in range(251):
        assert hastened.progress(300 + step, 0.0) == pytest.approx(planned.progress(750 + step, 0.0))
        assert hastened.rate(300 + step, 0.0) == pytest.approx(planned.rate(750 + step, 0.0))
        assert hastened.steps_of_phase(300 + step, 0.0) == pytest.approx(step)
    assert hastened.progress(300, 0.0) == 0.75
    assert hastened.progress(550, 0.0) == 1.0


@given(st.integers(1, 10_000), st.floats(0.01, 0.99), st.floats(0.0, 1.0))
def test_a_hastened_phase_begins_at_once(max_steps, second_phase, share):
    step = int(share * max_steps)
    schedule = Schedule(1.0, 0, max_steps=max_steps, second_phase=second_phase).hastened(step, 0.0)
    assert schedule.progress(step, 0.0) == second_phase
    assert not schedule.is_in_first_of_two(step, 0.0)


def test_there_is_no_phase_to_hasten_where_there_is_one_alone():
    assert not Schedule(1.0, 0, max_steps=10).is_in_first_of_two(3, 0.0)
