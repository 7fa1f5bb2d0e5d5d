"""A figure that a notebook shows by itself."""

from __future__ import annotations

import io
import pickle

from PIL import Image

from pyro_pcflow.plotting.figure import NotebookFigure


def test_a_notebook_gets_a_picture_of_the_size_of_the_figure():
    figure = NotebookFigure(figsize=(2, 1), dpi=50)
    assert Image.open(io.BytesIO(figure._repr_png_())).size == (100, 50)


def test_it_can_be_pickled():
    assert isinstance(pickle.loads(pickle.dumps(NotebookFigure())), NotebookFigure)
