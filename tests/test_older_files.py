"""Files of commit 9dad2bf, before modules, options and roads of training got other names: they are read as they were.

`files_of_0_1_0/make.py` wrote them there, with what they came to in `values.npz`.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_pcflow as pcf
from benchmarks.common.scores import evidence_lower_bound
from helpers.flat_fit import fit

FILES = Path(__file__).parent / "files_of_0_1_0"
RUN = {
    "max_steps": 40,
    "checkpoint_every": 10,
    "eval_every": 15,
    "log_every": 5,
    "pictures": False,
    "progress": False,
    "device": "cpu",
    "warmup_steps": 5,
    "betas": (0.9, 0.999),
    "weight_decay": 0.0,
    "patience": None,
    "ema_decay": 0.9,
    "noise": 0.05,
    "lr": 3e-3,
}
SMALL = {"num_couplings": 2, "hidden_dims": [8]}


@pytest.fixture(scope="module")
def values():
    with np.load(FILES / "values.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def assert_as_it_was(value, expected, tolerance=1e-10):
    if expected.dtype == torch.float32:
        tolerance = 1e-5
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


def test_flow(values):
    flow = pcf.load(FILES / "plain.pt")
    assert_as_it_was(flow.log_prob(values["x3"]), values["plain"])


def test_conditional_flow(values):
    flow = pcf.load(FILES / "conditional.pt")
    assert_as_it_was(flow.log_prob(values["x2"], values["context"].unsqueeze(1)), values["conditional"])


def test_additive_flow_in_float32(values):
    flow = pcf.load(FILES / "additive.pt")
    context = values["context"].float().unsqueeze(1)
    assert_as_it_was(flow.log_prob(values["x3"].float(), context), values["additive"])


def test_mixture_of_flows(values):
    flows = pcf.load(FILES / "mixture.pt")
    assert_as_it_was(flows.log_prob(values["x3"], values["context"].unsqueeze(1)), values["mixture"])


def test_vae(values):
    vae, labels = pcf.load(FILES / "vae.pt"), torch.tensor([0, 1, 0, 1, 1])
    latents = vae.encode(values["x3"], labels=labels).mean
    assert_as_it_was(latents, values["vae_latents"])
    assert_as_it_was(vae.decode(latents, 7, labels=labels, noise_level=0.3).log_prob(values["x3"]), values["vae"])
    assert_as_it_was(vae.latent_prior(labels).log_prob(latents), values["vae_prior"])


def test_a_trained_decoder_that_says_nothing_of_its_couplings():
    """It has twelve affine ones, whatever the default is today."""
    vae = pcf.load(FILES / "body.pt").float()
    assert {"base", "num_couplings"}.isdisjoint(torch.load(FILES / "body.pt")["config"]["decoder"])
    bodies = pcf.data.load_example("body", split="test")
    scores = evidence_lower_bound(vae, bodies, noise=0.01)
    assert scores["nats_per_point"] == pytest.approx(1.520, abs=0.01)


def test_auto_decoder(values):
    decoder = pcf.load(FILES / "auto_decoder.pt")
    assert_as_it_was(decoder.decode(values["context"], 7).log_prob(values["x3"]), values["auto_decoder"])


def resumed(folder, module, data, name, values, **options):
    shutil.copytree(FILES / name, folder / name)
    result = fit(module, data, out=folder / name, resume=True, **{**RUN, **options})
    assert result.steps == 40
    # Adam magnifies rounding where a gradient is close to zero; another batch or another noise costs 1e-3 and more.
    assert result.nats_per_point == pytest.approx(float(values[f"{name}.nats_per_point"]), abs=1e-6)
    for key, parameter in module.named_parameters():
        assert_as_it_was(parameter.detach(), values[f"{name}/{key}"], 1e-6)


def test_a_run_of_points_resumes(tmp_path, values):
    flow = pcf.PointCloudFlow(3, **SMALL).double()
    resumed(tmp_path, flow, values["cloud"], "run_of_points", values, batch_size=50)


def test_a_run_of_clouds_resumes(tmp_path, values):
    encoder = {"point_dims": [8, 8], "hidden_dims": [8], "pooled_points": None}
    vae = pcf.PointCloudVAE(3, 3, decoder=SMALL, encoder=encoder, prior_options={"activation": "silu"}).double()
    options = {"batch_size": 5, "target_points": 16, "encoder_points": 32, "most_points": None, "augment": None}
    resumed(tmp_path, vae, values["clouds"], "run_of_clouds", values, **options)


def test_a_run_of_clouds_says_what_it_had(tmp_path, values):
    encoder = {"point_dims": [8, 8], "hidden_dims": [8]}
    vae = pcf.PointCloudVAE(3, 3, decoder=SMALL, encoder=encoder, prior_options={"activation": "silu"}).double()
    options = {"batch_size": 5, "target_points": 16, "encoder_points": 32, "most_points": None, "augment": None}
    with pytest.raises(
        ValueError, match=r"weights: module\.config\.encoder\.pooled_points was None and is 512\. Repeat"
    ):
        resumed(tmp_path, vae, values["clouds"], "run_of_clouds", values, **options)
