"""`metrics.jsonl` of a run folder: a JSON object per line, as training goes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from pyro_pcflow.ops.reading import check_regular, printable

__all__ = ["MetricsFile"]


class MetricsFile:
    """Lines of finite numbers, each with its `step`.

    Args:
        path: the file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Append a line, whole or not at all."""
        with self.path.open("ab", buffering=0) as file:
            whole = file.tell()
            text = (json.dumps(line, allow_nan=False) + "\n").encode()
            try:
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, "the disk is full", str(self.path))
            except OSError:
                file.truncate(whole)
                raise

    def read(self, last_step: int) -> list[dict[str, Any]]:
        """Read the lines up to a step, and cut off what follows: later lines, and a line half-written.

        Raises:
            ValueError: if a line before the last is damaged: what follows it is not thrown away.
        """
        if not self.path.exists():
            return []
        history, kept = [], 0
        try:
            check_regular(self.path)
        except ValueError as error:
            raise ValueError(f"{printable(self.path)}: {error}, expected the metrics of a run") from error
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                line = _parse_line(text)
                if line is None and kept + len(text) < size:
                    raise ValueError(
                        f"{printable(self.path)}: line {number} is no line of metrics, and others follow it: mend "
                        "or remove it to continue the run"
                    )
                if line is None or line["step"] > last_step:
                    break
                history.append(line)
                kept += len(text)
        os.truncate(self.path, kept)
        return history

    def flush(self) -> None:
        """Flush what was appended to the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _parse_line(text: bytes) -> dict[str, Any] | None:
    """A whole line of metrics; None for any other bytes."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = text.endswith(b"\n") and isinstance(line, dict) and type(line.get("step")) is int
    return line if whole else None
