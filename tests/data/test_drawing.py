"""What is taken of a stored cloud: columns, rows, and the type that holds its digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyro_pcflow.data import CloudError
from pyro_pcflow.data.drawing import Selection, StoredCloud, narrowed
from pyro_pcflow.data.listing import Entry
from pyro_pcflow.data.shapes import CloudArray, PointTable, Surface

UTM = np.array([701362.0, 4485513.0, 40.0])


def stored(source, index=0):
    return StoredCloud(Entry(Path("a.ply"), "a.ply", None, "cups"), source, index, None, 0)


def table(count=50, offset=0.0, **others):
    xyz = np.random.default_rng(0).uniform(size=(count, 3)) + offset
    return PointTable({**dict(zip("xyz", xyz.T, strict=True)), **others})


def test_rows_that_are_not_finite_are_refused_or_left_out():
    source = table(t=np.arange(50))
    source.columns["y"][[3, 7]] = [np.nan, np.inf]
    with pytest.raises(CloudError, match=r"a\.ply: 2 of 50 points are NaN, infinite .* drop_nan=True"):
        stored(source).draw(None, 0)
    drawn = stored(source).draw(None, 0, Selection(features="t", drop_nan=True))
    assert drawn.dropped == 2
    assert drawn.features[:, 0].tolist() == drawn.rows.tolist()
    assert drawn.rows.tolist() == [row for row in range(50) if row not in (3, 7)]
    assert np.array_equal(drawn.points[:, 0], source.columns["x"][drawn.rows].astype(np.float32))
    # A feature that is not known leaves a point out as well.
    source.columns["t"] = np.where(np.arange(50) == 9, np.nan, 1.0)
    drawn = stored(source).draw(None, 0, Selection(features="t", drop_nan=True))
    assert drawn.dropped == 3
    assert 9 not in drawn.rows


def test_fewer_and_more_points_are_drawn_of_those_that_are_left():
    source = table()
    source.columns["x"][0] = np.nan
    few = stored(source).draw(20, 1, Selection(drop_nan=True))
    assert len(set(few.rows.tolist())) == 20
    assert 0 not in few.rows
    many = stored(source).draw(60, 1, Selection(drop_nan=True))
    assert many.rows[:49].tolist() == list(range(1, 50))
    assert 0 not in many.rows
    source.columns["x"][:] = np.nan
    with pytest.raises(CloudError, match="no point is left; 50 were not finite, 0 astray"):
        stored(source).draw(None, 0, Selection(drop_nan=True))


def test_strays_are_left_out_on_request():
    source = table(200)
    source.columns["z"][5] = 1e4
    assert stored(source).draw(None, 0).points[5, 2] == 1e4
    drawn = stored(source).draw(None, 0, Selection(outliers=6))
    assert drawn.strays >= 1
    assert 5 not in drawn.rows


def test_features_follow_the_coordinates():
    source = table(intensity=np.arange(50, dtype=np.uint16), label=np.full(50, "wall"))
    drawn = stored(source).draw(None, 0, Selection(features="intensity"))
    assert drawn.joined.shape == (50, 4)
    assert drawn.joined.dtype == drawn.features.dtype == np.float32
    assert drawn.joined[:, 3].tolist() == list(range(50))
    assert (drawn.names, drawn.feature_names) == (("x", "y", "z"), ("intensity",))
    for columns, wrong in [("x,y,zz", "zz"), ("x,y,label", "label")]:
        with pytest.raises(CloudError, match=rf"a\.ply: .*{wrong}"):
            stored(source).draw(None, 0, Selection(columns=columns))


def test_columns_of_an_array_have_places():
    array = CloudArray(np.arange(60.0).reshape(2, 6, 5))
    assert stored(array, 1).draw(None, 0).points.shape == (6, 5)
    drawn = stored(array, 1).draw(None, 0, Selection("5,1", "2"))
    assert drawn.joined[0].tolist() == [34, 30, 31]
    assert stored(array).draw(None, 0, Selection("xyz")).points.tolist() == array.points[0, :, :3].tolist()
    with pytest.raises(CloudError, match="6"):
        stored(array).draw(None, 0, Selection("1,2,6"))


def test_a_mesh_has_no_columns_and_any_number_of_points():
    surface = Surface(np.eye(3) + UTM, np.array([[0, 1, 2]]))
    assert stored(surface).num_points is None
    with pytest.raises(CloudError, match="a mesh, which has no columns"):
        stored(surface).draw(10, 0, Selection(features="intensity"))
    drawn = stored(surface).draw(1000, 0)
    assert drawn.points.dtype == np.float64
    assert np.abs((drawn.points - UTM).sum(1) - 1).max() < 1e-6


def test_labels_are_those_of_the_file_or_of_its_folder():
    assert stored(table()).label == "cups"
    assert stored(CloudArray(np.zeros((2, 5, 3)), labels=np.array([4, 7])), 1).label == 7
    assert stored(CloudArray(np.zeros((2, 5, 3)), labels=np.array(["a", "b"])), 1).label == "b"


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e6, -5e6])
@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_digits_are_kept(offset, dtype):
    # Whole numbers have a spacing of some tens of units.
    extent = 1.0 if dtype == np.float64 else 1000.0
    points = extent * np.random.default_rng(0).uniform(size=(500, 3)) + offset
    points = points.astype(dtype)
    kept = narrowed(points)
    spacing = extent / 500 ** (1 / 3)
    assert np.abs(kept.astype(np.float64) - points).max() < 1e-3 * spacing
    assert kept.dtype == (np.float32 if offset in (0.0, 100.0) and dtype == np.float64 else kept.dtype)


def test_whole_numbers_that_no_float_holds_are_refused():
    points = np.array([[2**53 + 1, 0, 0], [0, 1, 0]])
    with pytest.raises(CloudError, match="beyond 2\\^53"):
        stored(CloudArray(points[None])).draw(None, 0)
