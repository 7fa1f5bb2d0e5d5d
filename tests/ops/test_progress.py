from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tqdm.std import tqdm

from pyro_pcflow.ops import progress
from pyro_pcflow.ops.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def count_to(end, how, clock, step=10.0, total=True, **options):
    with progress_bar(how, "rows", unit="row", total=end if total else None, **options) as bar:
        for _ in range(end):
            clock.seconds += step
            bar.set_postfix_str(f"at {clock.seconds:.0f}")
            bar.update()
    return bar


def test_a_log_has_a_line_every_so_often(clock, capsys):
    count_to(7, None, clock)
    assert capsys.readouterr().err.splitlines() == [
        "rows: 3/7 rows, 43%, 30 s, at 130",
        "rows: 6/7 rows, 86%, 60 s, at 160",
        "rows: 7/7 rows, 100%, 70 s, at 170",
    ]


def test_what_is_soon_over_says_nothing_unless_it_is_asked_to(clock, capsys):
    count_to(2, None, clock)
    assert capsys.readouterr().err == ""
    count_to(2, True, clock, total=False)
    assert capsys.readouterr().err == "rows: 2 rows, 20 s, at 140\n"
    assert count_to(900, False, clock).n == 900
    assert capsys.readouterr().err == ""


def test_a_share_has_no_count(clock, capsys):
    with progress_bar(True, "fit", total=1.0, initial=0.25) as bar:
        bar.update(0.5)
    assert capsys.readouterr().err == "fit: 75%, 0 s\n"


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(True, "rows", unit="row", total=3) as bar:
        assert isinstance(bar, tqdm)
        bar.update(3)
    assert "3/3" in sys.stderr.getvalue()
    with progress_bar(None, "rows", total=3) as bar:
        # It waits a second, for what is soon over.
        assert (bar.delay, bar.disable) == (1.0, False)


def test_a_bar_goes_on_where_the_last_run_ended(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(True, "rows", total=8, initial=5) as bar:
        assert bar.n == 5
        bar.update(2)
    assert "7/8" in sys.stderr.getvalue()


def test_a_notebook_has_a_bar_though_its_standard_error_is_no_terminal(monkeypatch, capsys):
    shell = ModuleType("IPython")
    shell.get_ipython = lambda: SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", shell)
    with progress_bar(None, "rows", total=3) as bar:
        assert isinstance(bar, tqdm)
    shell.get_ipython = lambda: None
    with progress_bar(None, "rows", total=3) as bar:
        assert not isinstance(bar, tqdm)
