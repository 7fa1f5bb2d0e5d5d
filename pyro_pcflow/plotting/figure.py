"""A figure that notebooks show by themselves."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class Sheet(Figure):
    """A Matplotlib figure that a notebook shows without pyplot, whatever backend is set.

    Examples:
        >>> Sheet()._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
