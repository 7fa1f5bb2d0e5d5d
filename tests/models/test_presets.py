"""The published shapes, and that each of them works as a model."""

from __future__ import annotations

import pyro
import pytest
import torch

from pyro_pcflow.models.presets import PRESETS, preset
from pyro_pcflow.models.vae import PointCloudVAE
from pyro_pcflow.testing import randomize_parameters

PARAMETERS = {
    "nice": 1_712_158,
    "realnvp": 599_916,
    "cif": 158_208_060,
    "dpf": 3_677_748,
    "softflow": 5_972_112,
    "mixture": 3_664_176,
}
# From the noise: `=` kept, `>` moved.
MASKS = {
    "nice": [4, "=>=", ">=>"],
    "realnvp": [12, "=>=", ">=>"],
    "cif": [30, ">==", "=>=", "==>"],
    "dpf": [63, ">==", "=>=", "==>", ">>=", ">=>", "=>>"],
    "softflow": [18, "=>=", "==>", "==>", ">==", ">==", "=>="],
    "mixture": [33, ">==", "=>=", "==>", ">>=", ">=>", "=>>"],
}
# Of the first coupling; where there are two networks, of each.
CONDITIONERS = {
    "nice": "2 -> 256 -> 256 -> 256 -> 256 -> 256 -> 1, relu, bias of 128",
    "realnvp": "2 -> 128 -> 128 -> 2, relu, bias of 128",
    "cif": f"2 -> 256{' -> 512' * 9} -> 1, leaky_relu, residual, bias of 32{' -> 256' * 5}, at hidden layers [1]",
    "dpf": "2 -> 64 -> 64 -> 1, relu, film of 128 -> 64, at hidden layers [1]",
    "softflow": "2 -> 256 -> 256 -> 256 -> 2, tanh, concat_squash of 129",
    "mixture": "2 -> 37 -> 37 -> 1, relu, film of 128 -> 37, at hidden layers [1]",
}
SMALL = {
    "default": {"num_couplings": 3, "hidden_dims": (16, 16)},
    "nice": {"hidden_dims": (16,) * 5},
    "realnvp": {"num_couplings": 3, "hidden_dims": (16, 16)},
    "cif": {"num_couplings": 3, "hidden_dims": (8,) + (16,) * 9, "context_dims": (8,) * 5},
    "dpf": {"num_couplings": 6},
    "softflow": {"num_couplings": 6, "hidden_dims": (16,) * 3},
    "mixture": {"num_couplings": 6},
}


def stacks(vae):
    """The flows over points, without their bases."""
    flows = getattr(vae.decoder, "flows", [vae.decoder])
    return [flow.transform for flow in flows]


def unallocated(name):
    with torch.device("meta"):
        return preset(name)


def small(name):
    torch.manual_seed(0)
    prior = {"num_couplings": 2, "hidden_dims": (16,)}
    return randomize_parameters(preset(name, latent_dim=6, decoder=SMALL[name], prior_options=prior), 0.1).double()


def the_table():
    """The rows of the docstring's table: our parameters and the published ones."""
    rows = [
        line.strip().strip("|").split("|") for line in preset.__doc__.splitlines() if line.strip().startswith("| `")
    ]
    return {row[0].strip(" `"): tuple(cell.strip() for cell in row[-2:]) for row in rows}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted_beside_the_published(name):
    ours = sum(parameter.numel() for stack in stacks(unallocated(name)) for parameter in stack.parameters())
    published = PRESETS[name].published_parameters
    assert ours == PARAMETERS[name]
    assert the_table()[name] == (f"{ours:,}", "none" if published is None else f"{published:,}")
    assert published is None or abs(ours / published - 1) < 0.01


def test_the_table_has_every_preset():
    assert {"default", *the_table()} == set(PRESETS)


@pytest.mark.parametrize("name", MASKS)
def test_couplings_and_masks_are_the_published(name):
    number, *pattern = MASKS[name]
    for stack in stacks(unallocated(name)):
        masks = [part.mask for part in stack.parts if hasattr(part, "mask")]
        expected = [tuple(sign == "=" for sign in pattern[layer % len(pattern)]) for layer in range(number)]
        assert masks == expected


@pytest.mark.parametrize("name", CONDITIONERS)
def test_widths_and_conditioning_are_the_published(name):
    for stack in stacks(unallocated(name)):
        conditioner = stack.parts[0].conditioner
        networks = getattr(conditioner, "networks", [conditioner])
        assert len(networks) == (2 if name in ("cif", "dpf", "mixture") else 1)
        assert {network.extra_repr() for network in networks} == {CONDITIONERS[name]}


@pytest.mark.parametrize("name", SMALL)
def test_a_bound_has_gradients_of_every_parameter(name):
    pyro.clear_param_store()
    vae = small(name)
    clouds = torch.randn(5, 40, 3, dtype=torch.float64)
    loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, clouds)
    loss.backward()
    assert loss.isfinite()
    missing = [key for key, value in vae.named_parameters() if value.grad is None or not value.grad.any()]
    assert missing == []


@pytest.mark.parametrize("name", SMALL)
def test_samples_go_back_to_their_noise_and_no_point_depends_on_another(name):
    vae = small(name)
    latents = torch.randn(2, 6, dtype=torch.float64)
    clouds = vae.decode(latents, 200).sample()
    together = vae.decoder.condition(vae.decoder_context(latents).unsqueeze(-2)).log_prob(clouds)
    few = vae.decoder.condition(vae.decoder_context(latents[1])).log_prob(clouds[1, 5:9])
    torch.testing.assert_close(together[1, 5:9], few)
    for stack in stacks(vae):
        view = stack.condition(vae.decoder_context(latents).unsqueeze(-2))
        torch.testing.assert_close(view(view.inv(clouds).clone()), clouds)
    assert vae.sample(2, 50).isfinite().all()


def test_default_is_the_model_as_it_is():
    assert preset("default").config == PointCloudVAE().config


def test_what_is_named_is_replaced_and_the_rest_stays():
    before = dict(PRESETS["dpf"].options["decoder"])
    vae = preset("dpf", latent_dim=8, num_classes=2, decoder={"num_couplings": 2}, encoder={"hidden_dims": (16,)})
    assert vae.config["latent_dim"] == 8
    assert vae.config["decoder"] == {**before, "num_couplings": 2}
    published = {"activation": "relu", "num_frequencies": 0, "pooled_points": None}
    expected = {"point_dims": (64, 128, 256, 512), "hidden_dims": (16,), **published}
    assert vae.config["encoder"] == expected
    assert PRESETS["dpf"].options["decoder"] == before


@pytest.mark.parametrize("name", ["nice", "realnvp", "cif"])
def test_patterns_of_masks_fit_points_of_any_size(name):
    vae = preset(name, point_dim=6, latent_dim=4, decoder=SMALL[name])
    assert vae.sample(1, 5).shape == (1, 5, 6)


@pytest.mark.parametrize("name", ["dpf", "softflow", "mixture"])
def test_masks_for_three_coordinates_are_for_those_only(name):
    with pytest.raises(ValueError, match="point_dim=3, got point_dim=2"):
        preset(name, point_dim=2)
    vae = preset(name, point_dim=2, decoder={**SMALL[name], "masks": "alternate"})
    assert vae.sample(1, 5).shape == (1, 5, 2)


def test_an_unknown_name_is_told():
    with pytest.raises(ValueError, match="default, nice, realnvp, cif, dpf, softflow, mixture, got 'glow'"):
        preset("glow")
