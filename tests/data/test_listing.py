"""Which files of a folder are read, in which order, and of which split they are."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch

from helpers.cloud_files import numbered, put, save
from pyro_pcflow.data import CloudError, convert_clouds, load_clouds
from pyro_pcflow.data.listing import list_entries


def test_folder_order_hidden_and_foreign_files(tmp_path, monkeypatch):
    for number, name in enumerate(["b.npy", "a/z.npy", "a.npy", "B.npy", ".hidden.npy", ".git/x.npy"]):
        save(tmp_path, name, np.full((4, 2), number))
    put(tmp_path, "notes.md", b"no cloud")
    walk = os.walk

    def backwards(*args, **options):
        for folder, subfolders, files in walk(*args, **options):
            yield folder, subfolders, files[::-1]

    with pytest.warns(UserWarning, match=re.escape("1 file was passed over, whose endings are not known: notes.md;")):
        clouds = load_clouds(tmp_path, None)
    assert clouds[:, 0, 0].tolist() == [3, 2, 1, 0]
    (tmp_path / "notes.md").unlink()
    monkeypatch.setattr(os, "walk", backwards)
    assert torch.equal(load_clouds(tmp_path, None), clouds)


def test_files_that_are_passed_over_are_named(tmp_path):
    save(tmp_path, "train/a.npy", numbered(4))
    save(tmp_path, "test/b.npy", numbered(4))
    for number in range(6):
        put(tmp_path, f"train/{number}.doc", b"a format of others")
    put(tmp_path, "test/only.doc", b"of another split")
    put(tmp_path, "outside.pdf", b"of none")
    with pytest.warns(UserWarning, match="passed over") as told:
        load_clouds(tmp_path, None, split="train")
    (warning,) = told
    text = str(warning.message)
    assert text.startswith(f"{tmp_path}: 7 files were passed over, whose endings are not known: outside.pdf, ")
    assert "train/0.doc, train/1.doc, train/2.doc, train/3.doc, ...; known are .obj, .off" in text
    assert "only.doc" not in text
    assert warning.filename == __file__
    with pytest.warns(UserWarning, match="8 files were passed over"):
        convert_clouds(tmp_path, tmp_path / "all.npy", None)


def test_split_folders_of_meshes(tmp_path, corner, writers):
    for name in ("chair/train/c.off", "chair/test/c.off", "desk/test/d.off"):
        put(tmp_path, name, writers["a.off"](*corner))
    assert load_clouds(tmp_path, 10, split="test").shape == (2, 10, 3)
    assert load_clouds(tmp_path / "chair" / "train" / "c.off", 10, split="train").shape == (1, 10, 3)
    with pytest.raises(CloudError, match=r"no files of split 'val'; there are test, train"):
        load_clouds(tmp_path, 10, split="val")
    put(tmp_path, "stray.off", writers["a.off"](*corner))
    with pytest.raises(CloudError, match=r"stray\.off: belongs to no split, and split='train' was asked for"):
        load_clouds(tmp_path, 10, split="train")


def test_the_innermost_folder_says_the_split(tmp_path):
    for number, name in enumerate(["train/a.npy", "train/test/b.npy", "test/train/c.npy", "test/other/d.npy"]):
        save(tmp_path, name, np.full((3, 2), number))
    assert load_clouds(tmp_path, None, split="train")[:, 0, 0].tolist() == [2, 0]
    assert load_clouds(tmp_path, None, split="test")[:, 0, 0].tolist() == [3, 1]


def test_only_files_of_some_names(tmp_path):
    for number, name in enumerate(["a.npy", "north/b.npy", "north/c.npz", "south/b.npy"]):
        path = put(tmp_path, name, b"")
        if name.endswith("npz"):
            np.savez(path, points=np.full((3, 2), number))
        else:
            np.save(path, np.full((3, 2), number))

    def loaded(**options):
        return load_clouds(tmp_path, None, **options)[:, 0, 0].tolist()

    assert loaded(include="b.*") == [1, 3]
    assert loaded(include=["*.npz", "a*"]) == [0, 2]
    assert loaded(include="north/*") == [1, 2]
    assert loaded(subfolders=False) == [0]
    with pytest.raises(
        CloudError, match=r"no meshes or clouds in this folder whose names are like \*\.ply or c; expected"
    ):
        loaded(include=["*.ply", "c"])


def test_links_to_folders_are_followed_on_request_and_once(tmp_path):
    save(tmp_path, "data/a.npy", np.zeros((3, 2)))
    save(tmp_path, "elsewhere/b.npy", np.ones((3, 2)))
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "elsewhere")
    assert len(load_clouds(tmp_path / "data", None)) == 1
    assert load_clouds(tmp_path / "data", None, follow_links=True)[:, 0, 0].tolist() == [0, 1]


def test_categories_are_the_outermost_folders_that_are_no_split(tmp_path):
    names = ["a.npy", "cup/a.npy", "cup/red/b.npy", "test/plate/c.npy", "train/d.npy"]
    for name in names:
        save(tmp_path, name, np.zeros((3, 2)))
    entries = list_entries(tmp_path, None).entries
    assert [(entry.name, entry.category) for entry in entries] == list(
        zip(names, [None, "cup", "cup", "plate", None], strict=True)
    )
