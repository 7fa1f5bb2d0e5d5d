"""Signals that ask a process to end, answered where nothing is lost by it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "Interrupts", "interruptible"]

# Windows has no hang-up.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """A signal other than that of Ctrl-C asks the process to end, and is answered in the same way.

    Attributes:
        signum: the number of the signal.

    Examples:
        >>> isinstance(Interrupted(signal.SIGTERM), KeyboardInterrupt)
        True
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interrupts:
    """A handler of signals: the first raises `KeyboardInterrupt`; the second waits until what it has set off is done.

    A third one raises again, if you do not want to wait for a file system that hangs.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._answered = False
        self._holds = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self._received.append(signum)
        if not self._holds and len(self._received) != 2:
            self.check()

    def check(self) -> None:
        """Raise if a signal has come: Python drops what a handler raises while it deletes an object.

        Raises:
            KeyboardInterrupt: for SIGINT, and as `Interrupted` for others.
        """
        if self._received:
            self._answered = True
            first = self._received[0]
            raise KeyboardInterrupt if first == signal.SIGINT else Interrupted(first)

    @contextmanager
    def undisguised(self) -> Iterator[None]:
        """Raise the interrupt where it has been made another error on its way, as while Python builds a class."""
        try:
            yield
        except Exception:
            self.check()
            raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait until the block ends."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if not self._holds and not self._answered:
                self.check()

    def close(self) -> None:
        """Take note of signals, and raise nothing any more."""
        self._holds += 1

    def deliver(self) -> None:
        """Pass a signal that was not answered on to the present handler."""
        if self._received and not self._answered:
            signal.raise_signal(self._received[0])


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Answer SIGINT, SIGTERM and SIGHUP by `KeyboardInterrupt` while the block runs.

    A signal that is ignored stays so, as under `nohup`, and so does a handler that the caller has set. Outside the
    main thread nothing changes, because Python delivers signals to that one alone.

    Yields:
        The handler; that of an outer block where there is one.

    Examples:
        >>> try:
        ...     with interruptible() as interrupts, interrupts.held():
        ...         signal.raise_signal(signal.SIGTERM)
        ...         print("this is done first")
        ... except KeyboardInterrupt as error:
        ...     print(error)
        this is done first
        SIGTERM
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    outer = next((handler for handler in before.values() if isinstance(handler, Interrupts)), None)
    if outer is not None:
        yield outer
        return
    ours = [number for number in SIGNALS if before[number] in (signal.SIG_DFL, signal.default_int_handler)]
    try:
        for number in ours:
            signal.signal(number, interrupts)
        with interrupts.undisguised():
            with interrupts.held():
                _import_what_must_not_be_interrupted()
            yield interrupts
    finally:
        try:
            interrupts.close()
        finally:
            # A signal that comes before the first call has closed anything must not keep the handlers.
            interrupts.close()
            for number in ours:
                signal.signal(number, before[number])
        interrupts.deliver()


def _import_what_must_not_be_interrupted() -> None:
    """Import what torch imports at the first step of an optimizer or the first call of a custom operator.

    Triton is part of it. An exception while its extension is imported, which an interrupt is, ends the process by
    SIGABRT.
    """
    import_module("torch._dynamo")
