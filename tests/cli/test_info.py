"""`pcflow info`: what kind of thing a path is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyro_pcflow.cli import main


def info(capsys, *words):
    assert main(["info", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_kind_is_told(models, tmp_path, capsys):
    np.savetxt(tmp_path / "a.xyz", np.random.default_rng(0).normal(size=(9, 3)))
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.pt").write_bytes(models["flow"].read_bytes())
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((4, 3)))
    for path, kind in {tmp_path / "a.xyz": "cloud", run: "run", models["vae"]: "model", folder: "folder"}.items():
        assert info(capsys, path)["kind"] == kind


def test_text_and_json_say_the_same(tmp_path, capsys):
    np.savetxt(tmp_path / "a.xyz", np.random.default_rng(0).normal(size=(1234, 3)))
    found = info(capsys, tmp_path / "a.xyz")
    assert main(["info", str(tmp_path / "a.xyz")]) == 0
    text = capsys.readouterr().out
    assert "1 of 1,234 points" in text
    for low, high in found["extents"]:
        assert f"{low:.12g}" in text
        assert f"{high:.12g}" in text


@pytest.mark.parametrize("name", ["text.pt", "a.obj", "picture.jpg"])
def test_what_is_nothing(name, tmp_path, capsys):
    (tmp_path / name).write_text("nothing")
    assert main(["info", str(tmp_path / name)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"pcflow: {tmp_path / name}: ")
