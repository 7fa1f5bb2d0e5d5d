"""Arrays and tables of numbers, and the splits that they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.cloud_files import numbered, put, save
from pyro_pcflow.data import CloudError, load_clouds


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "int64", "uint8"])
def test_array_types(tmp_path, dtype):
    path = save(tmp_path, "a.npy", numbered(20).astype(dtype))
    assert torch.equal(load_clouds(path, None)[0], torch.tensor(numbered(20), dtype=torch.float32))


def test_fortran_order_and_six_columns(tmp_path):
    points = np.asfortranarray(numbered(20, dim=6))
    assert torch.equal(load_clouds(save(tmp_path, "a.npy", points), None)[0], torch.tensor(points).float())


@pytest.mark.parametrize(
    "text",
    [
        "1 2\n3 4\n",
        "1,2\n3,4",
        "# caf\u00e9, 3 columns\n1,\t2 # first\n\n 3 ,4\n",
        "x y\r\n1e0 2.\r\n3 4\r\n",
        "col 0, col 1\n1.0,2\n3,4\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_tables(tmp_path, text, encoding):
    path = put(tmp_path, "a.txt", text.encode(encoding))
    assert load_clouds(path, None).tolist() == [[[1, 2], [3, 4]]]


def test_split_of_category_files(tmp_path):
    points = np.stack([numbered(5, start=start) for start in range(4)])
    labels = np.array(["train", "test", "train", "val"])
    # Folders above, named like a split by chance, must not outvote the file.
    root = tmp_path / "test" / "data"
    root.mkdir(parents=True)
    np.savez(root / "a.npz", points=points, split=labels)
    for path in (root, root / "a.npz"):
        assert load_clouds(path, 5, split="train")[:, 0, 0].tolist() == [0, 2]
        assert load_clouds(path, 5, split="test")[:, 0, 0].tolist() == [1]
        assert len(load_clouds(path, 5)) == 4
    with pytest.raises(CloudError, match=r"a\.npz.*no cloud with split 'valid', only test, train, val"):
        load_clouds(root, 5, split="valid")
    np.savez(root / "b.npz", points=points)
    with pytest.raises(CloudError, match=r"b\.npz.*no array `split`, only points"):
        load_clouds(root, 5, split="train")
    (root / "train").mkdir()
    (root / "b.npz").rename(root / "train" / "b.npz")
    assert len(load_clouds(root / "train", 5, split="train")) == 4
