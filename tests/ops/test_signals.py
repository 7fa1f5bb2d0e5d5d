from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

import pyro_pcflow
from pyro_pcflow.ops.signals import SIGNALS, Interrupted, interruptible

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals of POSIX")


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    # Whoever starts the tests in the background may have them ignore some.
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    assert {number: signal.getsignal(number) for number in usual} == usual
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_raises_and_says_which(number):
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        signal.raise_signal(number)
    assert getattr(caught.value, "signum", signal.SIGINT) == number
    assert type(caught.value) is (KeyboardInterrupt if number == signal.SIGINT else Interrupted)


def test_a_second_one_waits_and_a_third_one_does_not():
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            done.append("cleaned up")
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                done.append("third")
    assert done == ["cleaned up", "third"]


def test_held_signals_are_raised_once_at_the_end():
    done = []
    with pytest.raises(Interrupted), interruptible() as interrupts:  # noqa: PT012
        with interrupts.held():
            with interrupts.held():
                for _ in range(4):
                    signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        done.append("too far")
    assert done == ["inner", "outer"]


def test_an_interrupt_that_is_answered_is_not_raised_again():
    with pytest.raises(Interrupted, match="SIGTERM"), interruptible() as interrupts:  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
            raise


def test_one_that_python_dropped_is_raised_at_the_next_check():
    with pytest.raises(Interrupted), interruptible() as interrupts:  # noqa: PT012
        with suppress(KeyboardInterrupt):  # as Python does amid a destructor
            signal.raise_signal(signal.SIGTERM)
        interrupts.check()


def test_an_interrupt_that_was_made_another_error_is_one_all_the_same():
    """As Python 3.11 does where a signal comes while a class is built, in whatever is imported late."""

    class Disguising:
        def __set_name__(self, owner, name):
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt as error:
                raise RuntimeError("Error calling __set_name__") from error

    with pytest.raises(Interrupted) as caught, interruptible():
        type("Late", (), {"field": Disguising()})
    assert "__set_name__" in str(caught.value.__context__)
    with pytest.raises(ZeroDivisionError), interruptible():
        raise ZeroDivisionError


def test_no_interrupt_reaches_what_an_exception_would_abort(monkeypatch):
    """Triton's extension, while Python imports it, ends the process by SIGABRT."""
    imported = []

    def interrupted_import(name):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        imported.append(name)

    monkeypatch.setattr("pyro_pcflow.ops.signals.import_module", interrupted_import)
    with pytest.raises(Interrupted), interruptible():
        imported.append("the block")
    assert imported == ["torch._dynamo"]


def test_what_is_ignored_or_chosen_stays():
    chosen = []
    mine = signal.signal(signal.SIGTERM, lambda number, frame: chosen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
    assert chosen == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_an_inner_block_shares_the_handler_of_the_outer_one():
    with interruptible() as outer, interruptible() as inner:
        assert inner is outer


def test_another_thread_changes_nothing():
    seen = []

    def work():
        with interruptible() as interrupts, interrupts.held():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_one_that_comes_while_handlers_are_restored_reaches_the_handler_before(monkeypatch):
    reached = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_handler = signal.signal
    with interruptible() as interrupts:
        close = interrupts.close
        monkeypatch.setattr(interrupts, "close", lambda: (close(), signal.raise_signal(signal.SIGTERM)))

        def restore(number, handler):
            return set_handler(number, handler if number != signal.SIGTERM else lambda *_: reached.append(number))

        monkeypatch.setattr(signal, "signal", restore)
    monkeypatch.undo()
    assert reached == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_the_command_line_says_so_in_a_line_and_by_its_status(tmp_path):
    """In a process of its own: what counts is how it ends."""
    script = (
        "import os, signal, sys, pyro_pcflow.cli as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "end = lambda parsed: os.kill(os.getpid(), int(sys.argv[1]))\n"
        "words = {'command': end, 'check': lambda parsed: None, 'without_torch': False}\n"
        "parser = type('P', (), {'parse_args': lambda self, _, parsed: vars(parsed).update(words)})()\n"
        "cli.make_parser = lambda *_: parser\n"
        "sys.exit(cli.main())\n"
    )
    root = str(Path(pyro_pcflow.__file__).parents[1])
    for number, said in ((2, "interrupted"), (15, "interrupted by SIGTERM"), (1, "interrupted by SIGHUP")):
        ended = subprocess.run(
            [sys.executable, "-c", script, str(number)], capture_output=True, text=True, cwd=root, timeout=60
        )
        assert ended.returncode == 128 + number, ended.stderr
        (line,) = ended.stderr.splitlines()
        assert line.startswith(f"pcflow: {said}, ")
