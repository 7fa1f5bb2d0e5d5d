"""Exponents by coverage on held-out clouds."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.infer import Completer, calibrate_temper, tempering
from pyro_pcflow.infer.checks import region_share


@pytest.mark.parametrize("num_draws", [8, 40])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_regions_of_a_right_posterior_hold_what_they_should(num_draws, level):
    """If draws are as the truth is, with few of them as with many; and of draws that are too sure less."""
    torch.manual_seed(0)
    truth = torch.randn(200, 2).double()
    hidden = truth.unsqueeze(1) + 0.3 * torch.randn(200, 20, 2).double()
    mask = torch.rand(200, 20) < 0.8
    shares = {}
    for spread in (1.0, 0.3):
        draws = spread * torch.randn(num_draws, 200, 2).double()
        densities = [dist.Normal(loc, 0.3).to_event(1) for loc in draws]
        shares[spread] = region_share(densities, hidden, mask, level)
    right = shares[1.0]
    # The truth is one more draw, and its rank among all is known to one of them.
    assert abs(right.mean() - level) < 4 * right.std() / 200**0.5 + 0.5 / (num_draws + 1)
    assert shares[0.3].mean() < level - 0.1


def make_completer():
    torch.manual_seed(0)
    decoder = {"base": "mixture", "num_components": 6, "num_couplings": 0, "base_hidden_dims": [16]}
    vae = pcf.PointCloudVAE(latent_dim=3, prior="normal", decoder=decoder)
    pcf.testing.randomize_parameters(vae.decoder, 0.3)
    return Completer(vae, context_dim=8, encoder={"point_dims": [8], "hidden_dims": [8]})


@pytest.mark.exhaustive
def test_a_right_model_is_trusted_and_a_wrong_one_is_not():
    """On clouds of the model itself regions hold what they should; moved by what it does not know, they do not."""
    completer = make_completer()
    own = completer.model.sample(20, 200)
    found = calibrate_temper(completer, own, exponents=[1.0, 0.03])
    # Four standard errors of the mean of 20 clouds, whose shares deviate by a tenth.
    assert all(tried[1.0][0] > 0.9 - 4 * 0.1 / 20**0.5 for tried in found.values())
    assert (completer.temper == 1).all()
    moved = own + 2 * torch.randn(20, 1, 3)
    state = torch.random.get_rng_state()
    wrong = calibrate_temper(completer, moved, exponents=[1.0, 0.03])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert wrong[30][1.0][0] < 0.85
    assert completer.temper[3] < 1
    assert (completer.temper.diff() <= 0).all()


def test_the_largest_exponent_that_covers_is_kept(monkeypatch, capsys):
    """Of each number of points, and never a larger one of more points; the least where none covers."""
    completer = make_completer()
    # Of exponents 1, 0.3 and 0.1; of 300 points 0.3 would do again, of 1000 points none does.
    shares = {30: (0.88, 0.92, 0.99), 100: (0.9, 0.89, 0.9), 300: (0.95, 0.95, 0.95), 1000: (0.5, 0.6, 0.7)}
    exponents = (1.0, 0.3, 0.1)
    tried = []

    def cover(completer, clouds, count, level):
        exponent = completer.exponent(torch.tensor([count])).item()
        place = min(range(3), key=lambda index: abs(exponents[index] - exponent))
        tried.append((count, exponents[place]))
        return torch.tensor([shares[count][place]]), torch.tensor([-float(place)])

    monkeypatch.setattr(tempering, "_coverage", cover)
    found = calibrate_temper(completer, torch.zeros(20, 5, 3), exponents=(0.1, 1.0, 0.3), progress=True)
    assert tried == [(30, 1.0), (30, 0.3), (100, 0.3), (100, 0.1), (300, 0.1), (1000, 0.1)]
    assert completer.temper.tolist() == pytest.approx([0.3, 0.1, 0.1, 0.1])
    assert found[30] == {1.0: (pytest.approx(0.88), 0.0), 0.3: (pytest.approx(0.92), -1.0)}
    said = capsys.readouterr().err
    assert said.startswith("calibration: 6 exponents, ")
    assert said.endswith("1000 points, exponent 0.1: regions hold 70.0%\n")


@pytest.mark.exhaustive
def test_draws_that_hide_nothing_say_nothing_of_hidden_points():
    """Models of far points, of which the sensor sees all or nothing, are calibrated as well."""
    completer = make_completer()
    completer.model.decoder.requires_grad_(False)
    clouds = completer.model.sample(20, 40) + 2 * torch.randn(20, 1, 3)
    found = calibrate_temper(completer, clouds, exponents=[1.0])
    assert all(0 <= share <= 1 for tried in found.values() for share, _ in tried.values())


def test_what_is_tried_is_what_auto_does(monkeypatch):
    """Also of the exponent 1: as a number it would be Bayes' rule, by which the likelihood weighs modes."""
    completer = make_completer()
    completer.temper.fill_(0.5)
    clouds = completer.model.sample(20, 100)
    said = []

    def look(model, partial, num_points, *, temper="auto", proposal, mask, **options):
        said.append((temper, proposal.exponent(mask.sum(-1)).unique().tolist()))
        raise InterruptedError

    monkeypatch.setattr(tempering, "complete", look)
    for exponent in (1.0, 0.25):
        with pytest.raises(InterruptedError):
            calibrate_temper(completer, clouds, exponents=[exponent])
    assert said == [("auto", [1.0]), ("auto", [0.25])]
    # Whatever happens, a completer keeps what it had.
    assert completer.temper.tolist() == [0.5] * 4


def test_few_clouds_are_doubted():
    completer = make_completer()
    with pytest.warns(UserWarning, match="3 clouds do not tell .* at least 20"):
        calibrate_temper(completer, completer.model.sample(3, 60), exponents=[0.01])


def test_wrong_use():
    completer = make_completer()
    with pytest.raises(ValueError, match=r"\(S, N, D\), got shape \(5, 3\)"):
        calibrate_temper(completer, torch.zeros(5, 3))
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrate_temper(completer, torch.zeros(2, 5, 3), exponents=[2.0])
    labelled = Completer(pcf.PointCloudVAE(latent_dim=4, num_classes=2, decoder={"num_couplings": 1}), context_dim=4)
    with pytest.raises(ValueError, match="classes"):
        calibrate_temper(labelled, torch.zeros(2, 5, 3))
