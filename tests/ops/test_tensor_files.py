"""Files of tensors, whole; `tests/test_hostile_files.py` attacks them."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict

import pytest
import torch

from pyro_pcflow.ops.tensor_files import load_tensors, read_tensors, write_tensors

CONTENT = {
    "weights": OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.tensor([True, False])),
    "list": [1, -2.5, "word", None, (torch.float64, torch.device("cpu"))],
    7: torch.zeros(0, 4, dtype=torch.bfloat16),
}


def written(content):
    file = io.BytesIO()
    write_tensors(content, file)
    return file


def test_plain_values_and_tensors_come_back():
    got = read_tensors(written(CONTENT))
    assert got["list"] == CONTENT["list"]
    assert list(got) == list(CONTENT)
    torch.testing.assert_close(got["weights"], CONTENT["weights"])
    torch.testing.assert_close(got[7], CONTENT[7])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "without named entries"),
        ({"a": torch.ones(1).expand(10**6)}, "tensors of 4000000 bytes in a file of"),
        ({1.5: 0}, "a key that is neither a word nor a whole number"),
        ({"a": 2**70}, "more than 63 bits"),
        ({"a": torch.ones(2).to_sparse()}, "asks for|layout"),
        ({"a": {1, 2}}, "asks for|a set"),
    ],
)
def test_other_content_is_refused(content, words):
    file = io.BytesIO()
    torch.save(content, file)
    with pytest.raises(ValueError, match=words):
        read_tensors(file)


def test_a_value_that_is_too_deep_is_refused():
    deep = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(ValueError, match="deeper than 50 levels"):
        read_tensors(written({"a": deep}))


def test_every_changed_byte_of_a_tensor_is_noticed():
    data = written({"a": torch.zeros(100)}).getvalue()
    place = data.index(bytes(400))
    damaged = data[:place] + b"\x01" + data[place + 1 :]
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        read_tensors(io.BytesIO(damaged))


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(written(CONTENT).getvalue()[:-30])
    with pytest.raises(ValueError, match=r"a\.pt: not a model, or damaged"):
        load_tensors(path, "a model")
    with pytest.raises(FileNotFoundError, match=r"b\.pt: no such file"):
        load_tensors(tmp_path / "b.pt", "a model")


def test_the_option_of_torch_is_left_as_it_was():
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    written({"a": torch.ones(1)})
    assert not torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(before)
