from __future__ import annotations

import io
import zipfile

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given

from pyro_pcflow.ops.array_files import enumerate_words, most_unpacked, read_array, read_npy_header


@given(npst.arrays(npst.floating_dtypes() | npst.integer_dtypes(), npst.array_shapes(min_dims=0, min_side=0)))
def test_a_header_says_what_numpy_wrote(array):
    stream = io.BytesIO()
    np.save(stream, array)
    size = stream.tell()
    stream.seek(0)
    header = read_npy_header(stream, size)
    assert (header.shape, header.dtype) == (array.shape, array.dtype)
    assert header.offset == stream.tell() == size - array.nbytes


def test_arrays_of_npy_and_npz(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "one.npz", samples=array)
    np.savez_compressed(tmp_path / "two.npz", points=array, labels=np.arange(2))
    for name in ("a.npy", "one.npz", "two.npz"):
        np.testing.assert_array_equal(read_array(tmp_path / name), array)


def rejected(path, words):
    with pytest.raises(ValueError, match=words) as error:
        read_array(path)
    assert str(path) in str(error.value)


def test_what_is_no_array_is_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.ones(2), b=np.ones(2))
    rejected(tmp_path / "two.npz", "expected an array `points`, or a single one, got a, b")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    rejected(tmp_path / "objects.npy", "pickled Python objects, which are never loaded")
    whole = io.BytesIO()
    np.save(whole, np.ones(100))
    (tmp_path / "cut.npy").write_bytes(whole.getvalue()[:-8])
    rejected(tmp_path / "cut.npy", "header promises 800 bytes of data, the file has 792")
    (tmp_path / "text.npy").write_text("no numbers at all")
    rejected(tmp_path / "text.npy", "can't be read")
    rejected(tmp_path, "a folder")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_array(tmp_path / "nothing.npy")


def test_a_small_file_that_unpacks_to_a_large_array_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("points.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**7,)})
        for _ in range(80):
            member.write(bytes(10**6))
    assert most_unpacked(path.stat().st_size) < 8 * 10**7
    rejected(path, "`points` would unpack to 80000128 bytes from a far smaller file")


def test_a_few_of_many_words():
    assert enumerate_words([]) == "nothing"
    assert enumerate_words([str(n) for n in range(9)]) == "0, 1, 2, 3, 4, 5, 6, 7, ..."
