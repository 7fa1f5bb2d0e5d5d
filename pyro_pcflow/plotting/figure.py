"""A Matplotlib figure that a notebook shows by itself; the one module that imports Matplotlib at once."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A Matplotlib figure that a notebook shows without pyplot, with any backend.

    Examples:
        >>> NotebookFigure()._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
