"""Functions of the user as distances: how they are called, what they may return, and how reports name them."""

from __future__ import annotations

import functools
import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from helpers.brute_force import padded, real_clouds
from pyro_pcflow.metrics import Distance, Report, chamfer, compare, distances, evaluate, hausdorff, pairwise


def between_means(x, y):
    return torch.linalg.vector_norm(x.mean(-2) - y.mean(-2), dim=-1)


def masked_means(x, y, *, x_mask, y_mask, power=1.0):
    means = [
        torch.where(mask.unsqueeze(-1), cloud, 0.0).sum(-2) / mask.sum(-1, keepdim=True)
        for cloud, mask in ((x, x_mask), (y, y_mask))
    ]
    return torch.linalg.vector_norm(means[0] - means[1], dim=-1) ** power


ZEROS = torch.zeros(1)


def directed(x, y):
    return x.amax((-1, -2)) - 2 * y.amin((-1, -2))


def beyond(x, y):
    return (x.amax((-1, -2)) - y.amax((-1, -2))).clamp(min=0)


def test_every_entry(bodies):
    x, y = bodies.split([4, 7])
    for function in (between_means, directed):
        matrix = pairwise(x, y, function)
        assert matrix.dtype == torch.float64
        torch.testing.assert_close(matrix, function(x[:, None], y))
        torch.testing.assert_close(pairwise(x, distance=function), function(x[:, None], x))
    torch.testing.assert_close(pairwise(x, y, masked_means, options={"power": 3.0}), between_means(x[:, None], y) ** 3)


def test_the_function_of_this_library_is_that_of_its_name(bodies):
    calls = []
    for given in (chamfer, hausdorff):
        assert torch.equal(pairwise(bodies, distance=given), pairwise(bodies, distance=given.__name__))
    assert evaluate(bodies[:5], bodies[5:10], distances=[chamfer]) == evaluate(bodies[:5], bodies[5:10])

    def counted(*clouds, **masks):
        calls.append(1)
        return chamfer(*clouds, **masks)

    wrapped = Distance(counted, symmetric=True)
    torch.testing.assert_close(pairwise(bodies, distance=wrapped), pairwise(bodies))
    assert calls


def test_a_symmetric_function_is_called_for_half_of_the_pairs(bodies):
    pairs = []

    def counting(x, y):
        pairs.append(len(x))
        return between_means(x, y)

    full = pairwise(bodies, distance=Distance(counting, name="counted"))
    every = sum(pairs)
    pairs.clear()
    half = pairwise(bodies, distance=Distance(counting, name="counted", symmetric=True))
    assert every == 121
    # Three pairs are for the check of symmetry.
    assert sum(pairs) == 66 + 3
    torch.testing.assert_close(half, full)
    assert (half.diagonal() == 0).all()


def test_memory_bounds_the_pairs_of_a_call(bodies):
    largest = []

    def watched(x, y):
        largest.append(len(x))
        return between_means(x, y)

    expected = pairwise(bodies, bodies, watched)
    assert max(largest) == 11
    largest.clear()
    torch.testing.assert_close(pairwise(bodies, bodies, watched, max_memory_mb=0.5), expected)
    few = max(largest)
    largest.clear()
    pairwise(bodies, bodies, Distance(watched, matrices=12), max_memory_mb=0.5)
    assert max(largest) < few < 11


def test_masks_and_clouds_that_are_not_finite():
    rng = np.random.default_rng(8)
    x, x_mask = padded([rng.normal(size=(n, 2)) for n in (5, 7, 6)], 9, rng)
    y, y_mask = padded([rng.normal(size=(n, 2)) for n in (3, 8, 6, 1)], 8, rng)
    masks = {"x_mask": x_mask, "y_mask": y_mask}
    seen = []

    def finite(a, b, **given):
        seen.append(a.isfinite().all() and b.isfinite().all())
        return masked_means(a, b, **given)

    matrix = pairwise(x, y, finite, **masks)
    for i, j in itertools.product(range(3), range(4)):
        torch.testing.assert_close(matrix[i, j], between_means(x[i][x_mask[i]], y[j][y_mask[j]]))
    x[1, x_mask[1].nonzero()[2]] = torch.nan
    matrix = pairwise(x, y, finite, **masks)
    assert matrix.isnan().tolist() == [[False] * 4, [True] * 4, [False] * 4]
    assert all(seen)
    with pytest.raises(ValueError, match="between_means: masks leave points out, and the function has no parameters"):
        pairwise(x, y, between_means, **masks)


def bad_shape(x, y):
    return torch.zeros(len(x), 1)


def bad_type(x, y):
    return 0.0


def bad_value(x, y):
    return torch.full((len(x),), torch.nan)


@pytest.mark.parametrize(
    ("distance", "error", "words"),
    [
        (
            bad_shape,
            ValueError,
            r"bad_shape: expected a tensor of one distance per pair, shape \(11,\) for c",
        ),
        (bad_type, ValueError, "bad_type: expected a tensor .* got float"),
        (bad_value, ValueError, "bad_value: it is NaN between clouds whose coordinates are all finite"),
        (
            lambda x, y: x,
            ValueError,
            "expected a name of letters, .* got '<lambda>'; a lambda or a partial needs",
        ),
        (functools.partial(between_means), ValueError, "a lambda or a partial needs one"),
        (3, TypeError, "distance: expected a name, a function or a Distance, got int"),
        (np.zeros(3), TypeError, "distance: expected a name, a function or a Distance, got ndarray"),
        (Distance(directed, symmetric=True), ValueError, "directed: expected it to be symmetric and zero"),
        (Distance(beyond, symmetric=True), ValueError, "beyond: expected it to be symmetric and zero"),
        (
            Distance(lambda x, y: 1 + between_means(x, y), name="shifted", symmetric=True),
            ValueError,
            "shifted: expected it to be symmetric and zero .* give symmetric=False",
        ),
    ],
)
def test_wrong_functions(distance, error, words, bodies):
    with pytest.raises(error, match=words):
        pairwise(bodies.cpu(), distance=distance)


@pytest.mark.parametrize("name", ["chamfer", "cd", "emd-approximate"])
def test_names_of_this_library_are_taken(name):
    with pytest.raises(ValueError, match=f"name: '{name}' is a distance of pcf.metrics"):
        Distance(between_means, name=name)


@pytest.mark.parametrize("name", ["a b", "a/b", "", "../x", "-x", "x" * 65])
def test_names_have_plain_characters(name):
    with pytest.raises(ValueError, match="name: expected a name of letters"):
        Distance(lambda x, y: x, name=name)


def test_options_are_plain_values(bodies):
    with pytest.raises(ValueError, match="'between_means' has no option 'power', its options are "):
        pairwise(bodies, distance=between_means, options={"power": 2})
    with pytest.raises(TypeError, match="for 'power', got Tensor; let the function hold it"):
        pairwise(bodies, distance=masked_means, options={"power": torch.ones(1)})

    def needs(x, y, *, scale, table=ZEROS):
        return scale * between_means(x, y) + table

    with pytest.raises(ValueError, match="'needs' needs a value for 'scale'"):
        pairwise(bodies, distance=needs)
    pairwise(bodies, distance=needs, options={"scale": 2.0})
    any_option = Distance(lambda x, y, **options: between_means(x, y) * options["scale"], name="any")
    torch.testing.assert_close(
        pairwise(bodies, distance=any_option, options={"scale": 2.0}), 2 * pairwise(bodies, distance=between_means)
    )


class Interrupted(Exception):
    """The user lost patience."""


def test_resume_after_an_interruption(bodies, tmp_path):
    expected = pairwise(bodies, distance=masked_means)
    rows = []

    class Impatient(torch.nn.Module):
        def forward(self, x, y, *, x_mask, y_mask):
            if len(rows) == 4:
                raise Interrupted
            rows.append(1)
            return masked_means(x, y, x_mask=x_mask, y_mask=y_mask)

    distance = Distance(Impatient(), name="mine")
    with pytest.raises(Interrupted):
        pairwise(bodies, distance=distance, path=tmp_path)
    rows.clear()
    with pytest.raises(Interrupted):
        pairwise(bodies, distance=distance, path=tmp_path)
    rows[:] = [1] * 8
    assert torch.equal(pairwise(bodies, distance=distance, path=tmp_path), expected)
    assert len(rows) == 8 + 3


def scaled(factor):
    def mine(x, y):
        return float(factor) * between_means(x, y)

    return mine


def test_two_functions_of_one_name_never_find_each_others_rows(bodies, tmp_path):
    for number, factor in enumerate((1.0, 2.0, 3.0), 1):
        expected = factor * pairwise(bodies, distance=between_means)
        for _ in range(2):
            torch.testing.assert_close(pairwise(bodies, distance=scaled(factor), path=tmp_path), expected)
            assert len(list(tmp_path.iterdir())) == number
    with pytest.raises(ValueError, match="path: rows of 'mine' cannot be kept, since the function holds an object"):
        pairwise(bodies, distance=scaled(Fraction(1, 2)), path=tmp_path / "other")


def test_a_report_says_whose_distance_it_is(tmp_path):
    clouds = real_clouds(12, 30)
    report = evaluate(clouds[:6], clouds[6:], distances=["chamfer", between_means, masked_means])
    assert {"1-nna-between_means", "1-nna-between_means-ref", "cov-masked_means", "mmd-between_means"} <= set(report)
    assert report["mmd-between_means"] == pytest.approx(
        between_means(clouds[:6, None], clouds[6:]).amin(0).mean().item(), rel=1e-5
    )
    found = report.protocol.distances["masked_means"]
    code = found.pop("code")
    assert len(code) == 16
    assert found == {"distance": f"{__name__}.masked_means", "defined_by": "the user", "options": {"power": 1.0}}
    note = f"`masked_means`: a distance that the user defined, the function `{__name__}.masked_means`."
    assert note in report.to_markdown()
    assert note in str(compare([report]))
    assert json.loads(report.to_json()) == json.loads(Report.from_json(report.to_json()).to_json())


def test_options_are_the_same_after_a_report_was_read():
    def axes_apart(x, y, axes=(0, 1)):
        return between_means(x[..., list(axes)], y[..., list(axes)])

    clouds = real_clouds(8, 30)
    report = evaluate(clouds[:4], clouds[4:], distances=[axes_apart])
    compare([report, Report.from_json(report.to_json())])


def test_reports_of_two_functions_of_one_name_do_not_compare():
    clouds = real_clouds(8, 30)
    reports = [evaluate(clouds[:4], clouds[4:], distances=[scaled(factor)]) for factor in (1.0, 1.0, 2.0)]
    compare(reports[:2])
    with pytest.raises(ValueError, match=r"cannot share a table: distances \("):
        compare(reports)


def test_distances_of_one_key_are_refused():
    clouds = real_clouds(8, 30)
    for given in ([between_means, between_means], ["emd", "emd"], {"x": "emd", "x-ref": "chamfer"}):
        with pytest.raises(ValueError, match="distances: two of them have the key '1-nna-"):
            evaluate(clouds[:4], clouds[4:], distances=given)
    for given in (between_means, Distance(between_means)):
        with pytest.raises(TypeError, match="distances: expected a sequence"):
            evaluate(clouds[:4], clouds[4:], distances=given)
    report = evaluate(clouds[:4], clouds[4:], distances={"one": between_means, "two": (masked_means, {"power": 2.0})})
    assert report.protocol.distances["two"]["options"] == {"power": 2.0}
    assert {"cov-one", "cov-two"} <= set(report)


def test_all_of_this_library_are_known_and_not_the_users():
    assert list(distances.DISTANCES) == list(distances.SUFFIXES)
    assert not any(distance.user_defined for distance in distances.DISTANCES.values())
    assert Distance(chamfer, name="other").user_defined
