"""Every public callable refuses an unknown keyword, with a TypeError that names it and what is near."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import torch

import pyro_pcflow as pcf
from pyro_pcflow.ops.options import check_options, option_names

SMALL = {"num_couplings": 2, "hidden_dims": [4]}
ROOMS = sorted(
    module.name
    for module in pkgutil.iter_modules(pcf.__path__, "pyro_pcflow.")
    if module.ispkg or module.name in ("pyro_pcflow.serialization", "pyro_pcflow.testing")
)
# How to call what passes words on: each of these must refuse an unknown one itself.
PASSES_WORDS_ON = {
    "MixtureOfFlows": lambda **word: pcf.MixtureOfFlows(2, 3, **SMALL, **word),
    "PointCloudFlow": lambda **word: pcf.PointCloudFlow(3, **SMALL, **word),
    "additive_point_coupling": lambda **word: pcf.transforms.additive_point_coupling(3, **word),
    "affine_point_coupling": lambda **word: pcf.transforms.affine_point_coupling(3, **word),
    "conditional_additive_point_coupling": lambda **word: pcf.transforms.conditional_additive_point_coupling(
        3, 2, **word
    ),
    "conditional_affine_point_coupling": lambda **word: pcf.transforms.conditional_affine_point_coupling(3, 2, **word),
    "conditional_point_coupling": lambda **word: pcf.transforms.conditional_point_coupling(
        3, 2, pcf.transforms.Affine(), **word
    ),
    "conditional_cubic_point_coupling": lambda **word: pcf.transforms.conditional_cubic_point_coupling(3, 2, **word),
    "conditional_spline_point_coupling": lambda **word: pcf.transforms.conditional_spline_point_coupling(3, 2, **word),
    "coupling_stack": lambda **word: pcf.transforms.coupling_stack(3, **word),
    "cubic_point_coupling": lambda **word: pcf.transforms.cubic_point_coupling(3, **word),
    "latent_flow": lambda **word: pcf.models.latent_flow(2, **word),
    "point_coupling": lambda **word: pcf.transforms.point_coupling(3, pcf.transforms.Affine(), **word),
    "preset": lambda **word: pcf.models.preset("dpf", **word),
    "save_html": lambda **word: pcf.plotting.save_html(torch.zeros(1, 2, 3), "never.html", **word),
    "spline_point_coupling": lambda **word: pcf.transforms.spline_point_coupling(3, **word),
}
VAE = {"latent_dim": 2, "decoder": SMALL}
HOLDS_WORDS = {
    "decoder of a VAE": lambda **word: pcf.PointCloudVAE(3, 2, decoder={**SMALL, **word}),
    "prior of a VAE": lambda **word: pcf.PointCloudVAE(3, 2, prior_options={**SMALL, **word}),
    "prior that is not used": lambda **word: pcf.PointCloudVAE(3, 2, prior="normal", prior_options=word),
    "encoder of a VAE": lambda **word: pcf.PointCloudVAE(3, 2, encoder={"hidden_dims": [4], **word}),
    "decoder of a mixture": lambda **word: pcf.PointCloudVAE(3, 2, num_flows=2, decoder={**SMALL, **word}),
    "decoder of an auto-decoder": lambda **word: pcf.models.AutoDecoder(2, 3, 2, decoder={**SMALL, **word}),
    "prior of an auto-decoder": lambda **word: pcf.models.AutoDecoder(2, 3, 2, prior_options={**SMALL, **word}),
    "decoder of a preset": lambda **word: pcf.models.preset("dpf", decoder=word),
    "encoder of a preset": lambda **word: pcf.models.preset("dpf", encoder=word),
}


def public_callables():
    """Every public function, class and method of the package, by a name."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", []):
            subject = getattr(module, name)
            if not callable(subject) or (inspect.isclass(subject) and issubclass(subject, BaseException)):
                continue
            found[name] = subject
            if not inspect.isclass(subject):
                continue
            # What a class inherits from torch or Pyro has their rules.
            for cls in subject.__mro__:
                if cls.__module__.startswith("pyro_pcflow"):
                    for key, method in vars(cls).items():
                        if inspect.isfunction(method) and not key.startswith("_"):
                            found[f"{cls.__name__}.{key}"] = method
    return found


def test_every_room_is_looked_at():
    names = public_callables()
    assert len(names) > 150
    for name in ("fit", "evaluate", "PointCloudVAE", "LatentCloudModel.guide", "AutoDecoder.embedding", "plot_clouds"):
        assert name in names


@pytest.mark.parametrize("name", sorted(public_callables()))
def test_no_public_callable_takes_a_word_that_it_does_not_know(name):
    signature = inspect.signature(public_callables()[name])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        assert name in PASSES_WORDS_ON, f"{name} passes words on: say here how to call it, to see it refuse one"
    else:
        with pytest.raises(TypeError, match="neverheardof"):
            signature.bind_partial(neverheardof=1)


@pytest.mark.parametrize("call", [*PASSES_WORDS_ON.items(), *HOLDS_WORDS.items()], ids=lambda call: call[0])
def test_an_unknown_word_is_named(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=r"neverheardof.* it takes .*, "):
        call[1](neverheardof=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "word", "meant"),
    [
        ("PointCloudFlow", "num_coupling", "num_couplings"),
        ("MixtureOfFlows", "lu_linea", "lu_linear"),
        ("latent_flow", "activations", "activation"),
        ("preset", "latent_dims", "latent_dim"),
        ("save_html", "titel", "title"),
        ("encoder of a VAE", "hidden_dim", "hidden_dims"),
        ("decoder of a preset", "mask", "masks"),
    ],
)
def test_a_near_word_is_suggested(call, word, meant):
    with pytest.raises(TypeError, match=f"{word}' .did you mean '{meant}'"):
        {**PASSES_WORDS_ON, **HOLDS_WORDS}[call](**{word: 1})


@pytest.mark.parametrize("method", ["model", "guide"])
@pytest.mark.parametrize("make", [lambda: pcf.PointCloudVAE(3, **VAE), lambda: pcf.models.AutoDecoder(4, 3, **VAE)])
def test_models_and_guides_know_their_words(make, method):
    """Pyro gives both the same arguments, so that both know all of them, and no other."""
    model, clouds = make(), torch.randn(4, 10, 3)
    known = {
        "labels": None,
        "noise_level": 0.0,
        "num_points": None,
        "kl_weight": 1.0,
        "index": torch.arange(4),
        "encoder_points": clouds,
        "encoder_mask": None,
    }
    assert getattr(model, method)(clouds, None, 4, **known).shape == (4, 2)
    for word in ("lables", "idx"):
        with pytest.raises(TypeError, match=word):
            getattr(model, method)(clouds, **{word: [2, 1, 0]})


def test_option_names_are_those_of_a_signature():
    def first(a, /, b, *args, c=1, **kwargs): ...

    def second(d=2): ...

    assert option_names(first, second, without=["b"]) == ("c", "d")
    check_options([], [], "nothing")
    with pytest.raises(TypeError, match="unknown options 'x', 'y'; it takes a"):
        check_options(["x", "y"], ["a"], "this")
