from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from pyro_pcflow.ops.hashing import array_sha256, sha256_of


def test_what_is_hashed_is_written_out():
    """Run folders, protocols and stores of rows keep these."""
    array = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    content = array.numpy().tobytes()
    assert sha256_of("ab", None, array, "c") == hashlib.sha256(b"ab" + content + b"c").hexdigest()
    assert array_sha256(array) == hashlib.sha256(b"float32 2x3\n" + content).hexdigest()


def test_arrays_are_told_apart_and_their_layouts_are_not():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert array_sha256(array) == array_sha256(torch.from_numpy(array)) == array_sha256(np.asfortranarray(array))
    assert array_sha256(array) == array_sha256(array.astype(">f4"))
    others = [array.astype(np.float64), array.reshape(3, 2), array + 1]
    assert len({array_sha256(other) for other in [array, *others]}) == 4


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float64])
def test_values_of_every_type(dtype):
    values = torch.tensor([[0, 1, 0], [1, 1, 0]]).to(dtype)
    assert sha256_of(values.t().contiguous().t()) == sha256_of(values)
    assert sha256_of(values) != sha256_of(1 - values.long())
    assert sha256_of(values[:0]) == sha256_of("")
