"""How far a long computation has come: a bar in a terminal or a notebook, lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

__all__ = ["ProgressBar", "progress_bar"]

# Of the lines of a log, and how long nothing is shown in a terminal.
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BEFORE_BAR = 1.0


class ProgressBar(Protocol):
    """What callers use of a bar, which is a context."""

    n: float
    total: float | None

    def update(self, n: float = 1) -> Any:
        """Go on by some units."""

    def set_postfix_str(self, s: str, refresh: bool = True) -> Any:
        """What is said beside the number."""

    def __enter__(self) -> ProgressBar: ...

    def __exit__(self, *args: Any) -> Any: ...


def progress_bar(
    progress: bool | None,
    desc: str,
    *,
    unit: str = "it",
    total: float | None = None,
    initial: float = 0,
    bar_format: str | None = None,
) -> ProgressBar:
    """Show how far something has come, on standard error.

    Args:
        progress: `True` shows it; `None` shows a bar in a terminal or a notebook, after a second, and a line every
            half a minute in a log; `False` shows nothing.
        desc: what is counted.
        unit: of the count; of a share, where the total is 1, none is shown.
        total: where the count ends, if that is known.
        initial: where it begins.
        bar_format: of the bar, see tqdm.

    Examples:
        >>> with progress_bar(False, "rows", total=3) as bar:
        ...     bar.update(2)
    """
    if progress is False:
        return _Nothing(total, initial)
    if not _shows_bars():
        return _Lines(desc, unit, total, initial, at_the_end=progress is True)
    from tqdm.auto import tqdm

    delay = SECONDS_BEFORE_BAR if progress is None else 0
    return tqdm(desc=desc, unit=unit, total=total, initial=initial, bar_format=bar_format, delay=delay)


def _shows_bars() -> bool:
    # A notebook's standard error is no terminal.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return sys.stderr.isatty() or hasattr(shell, "kernel")


class _Nothing:
    def __init__(self, total: float | None, initial: float) -> None:
        self.n, self.total = initial, total

    def update(self, n: float = 1) -> None:
        self.n += n

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        pass

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *args: object) -> None:
        pass


class _Lines(_Nothing):
    def __init__(self, desc: str, unit: str, total: float | None, initial: float, at_the_end: bool) -> None:
        super().__init__(total, initial)
        self._desc, self._unit, self._postfix = desc, unit, ""
        self._start = self._last = time.monotonic()
        self._at_the_end = at_the_end

    def update(self, n: float = 1) -> None:
        super().update(n)
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._at_the_end = True
            self._write()

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        self._postfix = s

    def __exit__(self, *args: object) -> None:
        if self._at_the_end:
            self._write()

    def _write(self) -> None:
        self._last = time.monotonic()
        share = f"{self.n / self.total:.0%}" if self.total else ""
        of = f"/{self.total:,.0f}" if self.total else ""
        count = "" if self.total == 1 else f"{self.n:,.0f}{of} {self._unit}s"
        parts = [count, share, f"{self._last - self._start:.0f} s", self._postfix]
        print(f"{self._desc}: {', '.join(part for part in parts if part)}", file=sys.stderr, flush=True)
