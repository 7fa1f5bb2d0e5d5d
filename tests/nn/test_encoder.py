"""The encoder of clouds against its formula, one cloud and one point at a time."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from pyro_pcflow.nn import CloudEncoder
from pyro_pcflow.nn import encoder as cloud_encoder
from pyro_pcflow.testing import randomize_parameters

SIZES = (9, 4, 1, 0)


def make(context_dim=0, **options):
    torch.manual_seed(0)
    options = {"point_dims": [6, 5], "hidden_dims": [7], **options}
    return randomize_parameters(CloudEncoder(3, [2, 4], context_dim=context_dim, **options)).double()


def ragged():
    """Clouds of 9, 4, 1 and 0 points whose padding is NaN, shape `(4, 9, 3)`, and their mask."""
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(-1)
    # The points of a cloud need not come first.
    mask = mask[:, torch.randperm(max(SIZES))]
    clouds = torch.randn(len(SIZES), max(SIZES), 3, dtype=torch.float64)
    return torch.where(mask.unsqueeze(-1), clouds, torch.nan), mask


def by_hand(encoder, cloud, context=None):
    """One cloud `(N, D)`, its points one by one."""
    features = []
    for point in cloud:
        octaves = [point * 2**octave for octave in range(encoder.num_frequencies)]
        waves = [torch.cat(octaves).sin(), torch.cat(octaves).cos()] if octaves else []
        hidden = torch.cat([point, *waves])
        for layer in encoder.points:
            hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
        features.append(hidden)
    if features:
        # Every part of so many points, one by one.
        parts = combinations(features, min(len(features), encoder.pooled_points or len(features)))
        hidden = torch.stack([torch.stack(part).max(0).values for part in parts]).mean(0)
    else:
        hidden = torch.zeros(5, dtype=torch.float64)
    if context is not None:
        hidden = torch.cat([hidden, context])
    for layer in encoder.cloud:
        hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
    return encoder.output.weight @ hidden + encoder.output.bias


@pytest.fixture
def _exact_means(monkeypatch):
    """Means of maxima to the last of their terms."""
    monkeypatch.setattr(cloud_encoder, "TAIL", 1e-16)


@pytest.mark.usefixtures("_exact_means")
@pytest.mark.parametrize("pooled_points", [None, 1, 4, 8])
@pytest.mark.parametrize(("context_dim", "num_frequencies"), [(0, 0), (3, 0), (0, 2)])
def test_it_is_its_formula_whatever_the_padding_holds(context_dim, num_frequencies, pooled_points):
    encoder = make(context_dim, num_frequencies=num_frequencies, pooled_points=pooled_points)
    clouds, mask = ragged()
    context = torch.randn(len(SIZES), 3, dtype=torch.float64) if context_dim else None
    outputs = encoder(clouds, mask, context)
    assert [tuple(output.shape) for output in outputs] == [(4, 2), (4, 4)]
    for number, size in enumerate(SIZES):
        row = None if context is None else context[number]
        kept = clouds[number, mask[number]]
        assert len(kept) == size
        torch.testing.assert_close(torch.cat(outputs, -1)[number], by_hand(encoder, kept, row))
        torch.testing.assert_close(torch.cat(encoder(kept, None, row), -1), by_hand(encoder, kept, row))


@pytest.mark.parametrize("pooled_points", [None, 3])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_padding_may_hold_anything(value, pooled_points):
    encoder = make(pooled_points=pooled_points)
    clouds, mask = ragged()
    expected = encoder(torch.where(mask.unsqueeze(-1), clouds, 0.0), mask)
    got = encoder(torch.where(mask.unsqueeze(-1), clouds, value), mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("pooled_points", [None, 5])
def test_the_order_of_points_does_not_matter_and_points_do(pooled_points):
    encoder = make(pooled_points=pooled_points)
    clouds = torch.randn(5, 20, 3, dtype=torch.float64)
    got = torch.cat(encoder(clouds), -1)
    torch.testing.assert_close(torch.cat(encoder(clouds[:, torch.randperm(20)]), -1), got)
    assert (torch.cat(encoder(3 * clouds), -1) - got).abs().amax(-1).min() > 1e-3
    # A cloud does not see the others of its batch.
    torch.testing.assert_close(torch.cat(encoder(clouds[1:2]), -1), got[1:2])


def test_a_set_has_no_multiplicities():
    """A maximum reads the same in a cloud that is there twice; a mean over padding, too, would not."""
    encoder = make()
    cloud = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(encoder(torch.cat([cloud, cloud])), encoder(cloud))


def test_more_points_change_the_mean_of_maxima_by_chance_alone():
    """A maximum grows with the number of points; that over parts of one size has one expectation, and varies less."""
    encoder = make(pooled_points=32, hidden_dims=[])
    clouds = torch.randn(400, 512, 3, dtype=torch.float64)
    with torch.no_grad():
        few, many = encoder(clouds[:, :32])[1], encoder(clouds)[1]
        encoder.pooled_points = None
        largest = encoder(clouds)[1]
    error = few.std(0) / len(clouds) ** 0.5
    assert ((many.mean(0) - few.mean(0)).abs() < 5 * error).all()
    assert ((largest.mean(0) - few.mean(0)).abs() > 10 * error).all()
    assert (many.std(0) < 0.5 * few.std(0)).all()


def test_the_terms_that_a_mean_of_maxima_leaves_out_are_negligible(monkeypatch):
    encoder, cloud = make(pooled_points=32), torch.randn(1000, 3, dtype=torch.float64)
    found = torch.cat(encoder(cloud), -1)
    monkeypatch.setattr(cloud_encoder, "TAIL", 1e-16)
    expected = torch.cat(encoder(cloud), -1)
    assert 0 < (found - expected).abs().max() < 2e-3 * expected.abs().max()


def test_batch_shapes():
    encoder = make(3)
    clouds, context = torch.randn(2, 4, 9, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    outputs = encoder(clouds, None, context)
    assert outputs[0].shape == (2, 4, 2)
    for i in range(2):
        torch.testing.assert_close(torch.cat(outputs, -1)[i], torch.cat(encoder(clouds[i], None, context), -1))
    assert encoder(clouds[0, 0], None, context[0])[1].shape == (4,)
    # One context for all clouds.
    torch.testing.assert_close(encoder(clouds, None, context[1])[0][1, 1], outputs[0][1, 1])


@pytest.mark.parametrize("context_dim", [0, 3])
def test_gradients_reach_every_parameter_past_an_empty_cloud(context_dim):
    encoder = make(context_dim)
    clouds, mask = ragged()
    context = torch.randn(len(SIZES), 3, dtype=torch.float64) if context_dim else None
    clouds.requires_grad_()
    torch.cat(encoder(clouds, mask, context), -1).square().sum().backward()
    for name, value in encoder.named_parameters():
        assert value.grad.isfinite().all(), name
        assert value.grad.any(), name
    assert clouds.grad.isfinite().all()
    assert not clouds.grad[~mask].any()


def test_a_batch_of_nothing_but_empty_clouds_has_gradients():
    for clouds, mask in (
        (torch.full((2, 3, 3), torch.nan, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.bool)),
        (torch.zeros(2, 0, 3, dtype=torch.float64), None),
        (torch.zeros(2, 0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.bool)),
    ):
        encoder = make()
        output = torch.cat(encoder(clouds, mask), -1)
        expected = by_hand(encoder, torch.zeros(0, 3, dtype=torch.float64))
        torch.testing.assert_close(output, expected.expand(2, -1))
        output.sum().backward()
        gradients = [value.grad for value in encoder.parameters() if value.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert encoder.output.bias.grad.tolist() == [2.0] * 6


def test_an_activation_by_name():
    relu, tanh = make(), make(activation="tanh")
    assert relu.state_dict().keys() == tanh.state_dict().keys()
    cloud = torch.randn(4, 3, dtype=torch.float64)
    hidden = cloud
    for layer in tanh.points:
        hidden = layer(hidden).tanh()
    expected = tanh.output(tanh.cloud[0](hidden.max(0).values).tanh())
    torch.testing.assert_close(torch.cat(tanh(cloud), -1), expected)
    assert not torch.allclose(torch.cat(relu(cloud), -1), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"point_dim": 0}, "positive sizes, got point_dim=0"),
        ({"output_dims": []}, r"output_dims=\[\]"),
        ({"output_dims": [2, 0]}, r"output_dims=\[2, 0\]"),
        ({"num_frequencies": -1}, "num_frequencies"),
        ({"point_dims": []}, r"point_dims=\[\]"),
        ({"point_dims": [8, -1]}, r"point_dims=\[8, -1\]"),
        ({"hidden_dims": [0]}, r"hidden_dims=\[0\]"),
        ({"context_dim": -1}, "context_dim=-1"),
        ({"pooled_points": 0}, "pooled_points must be at least 1"),
        ({"activation": "step"}, "relu.*'step'"),
    ],
)
def test_wrong_sizes_and_names_are_told(options, words):
    with pytest.raises(ValueError, match=words):
        CloudEncoder(**{"point_dim": 3, "output_dims": [2], **options})


def test_no_hidden_layer_after_the_maximum():
    encoder = make(hidden_dims=[])
    assert len(encoder.cloud) == 0
    assert encoder(torch.randn(2, 5, 3, dtype=torch.float64))[1].shape == (2, 4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("pooled_points", "read_for_gradients"), [(None, [50, 5]), (3, [50])])
def test_large_clouds_are_read_in_pieces_where_no_gradient_is_asked_for(
    masked, pooled_points, read_for_gradients, monkeypatch
):
    encoder, clouds = (
        CloudEncoder(3, [2], point_dims=[4, 5], num_frequencies=1, pooled_points=pooled_points).double(),
        torch.randn(4, 50, 3).double(),
    )
    mask = torch.rand(4, 50) < torch.tensor([[0.0], [0.1], [0.5], [1.0]]) if masked else None
    (expected,) = encoder(clouds, mask)
    sizes = []
    encoder.points[0].register_forward_hook(lambda layer, inputs, output: sizes.append(output.shape[-2]))
    monkeypatch.setattr(cloud_encoder, "POINTS_AT_ONCE", 20)
    with torch.no_grad():
        (pieces,) = encoder(clouds, mask)
    torch.testing.assert_close(pieces, expected)
    encoder(clouds, mask)
    # With gradients: all points to find those that hold a maximum, and these.
    assert sizes == [20, 20, 10, *read_for_gradients]


def test_padding_is_in_no_maximum_that_is_negative():
    """With an activation that has negative values, which a zero in the padding would exceed."""
    encoder = CloudEncoder(3, [4], point_dims=[16], activation="tanh")
    clouds, mask = torch.randn(2, 9, 3), torch.arange(9) < 2
    (masked,), (alone,) = encoder(clouds, mask.expand(2, 9)), encoder(clouds[:, :2])
    torch.testing.assert_close(masked, alone)


@pytest.mark.usefixtures("_exact_means")
@pytest.mark.parametrize(("num_points", "pooled_points"), [(3, None), (40, None), (3, 2), (40, 2)])
def test_gradients_are_those_of_all_points(num_points, pooled_points, monkeypatch):
    monkeypatch.setattr(cloud_encoder, "POINTS_IN_CACHE", 80)  # several pieces
    encoder = make(num_frequencies=1, pooled_points=pooled_points)
    clouds = torch.randn(5, num_points, 3, dtype=torch.float64)
    mask = torch.rand(5, num_points) < 0.7
    mask[0] = False
    clouds[1, ~mask[1]] = torch.nan
    inputs = [clouds.requires_grad_(), *encoder.parameters()]
    loss = sum(output.square().sum() for output in encoder(clouds, mask))
    by_points = [by_hand(encoder, cloud[kept]) for cloud, kept in zip(clouds, mask, strict=True)]
    expected = sum(output.square().sum() for output in by_points)
    for found, right in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(found, right)
