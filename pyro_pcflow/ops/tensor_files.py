"""Reading torch files of tensors and plain values from untrusted sources, without unpickling code."""

from __future__ import annotations

import os
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pyro_pcflow.ops.reading import check_regular, phrase, printable

__all__ = ["load_tensors", "read_tensors", "write_tensors"]

# Names and settings beside the numbers: some 200 bytes for each tensor.
MOST_BYTES_OF_NAMES = 1 << 22
MOST_VALUES, MOST_DEPTH = 10**6, 50
LARGEST_NUMBER = 2**63
CHUNK = 1 << 20
# The attribute of a folder in an archive, beside a name that ends in a slash.
DIRECTORY = 0x10

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
# What torch looks up for tensors and plain values. It knows more, such as a byte array of any size that is named.
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch device",
    *(f"torch {kind}Storage" for kind in _STORAGES),
    *(f"torch {dtype}" for dtype in _DTYPES),
}
_LOOK_UPS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}


def write_tensors(content: dict[str, Any], file: BinaryIO) -> None:
    """Write nested dicts and lists of tensors and plain values, with the checksums that `load_tensors` compares.

    Args:
        content: what to write.
        file: open for writing.
    """
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        torch.save(content, file)
    finally:
        torch.serialization.set_crc32_options(checksums)


def load_tensors(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read a file of `write_tensors`, on the CPU, in time and memory that follow from its size.

    No code in the file is run, for which torch from version 2.10 on is needed. Beside what `weights_only` refuses,
    this refuses parts that are compressed, damaged or share their bytes, and tensors that are larger than the file.

    Args:
        path: the file.
        kind: what it was expected to be, in an error.

    Returns:
        A dict of tensors, numbers, words, and dicts and lists of these.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it can't be read, is damaged or of another kind; the message names the file.
    """
    path = Path(path)
    try:
        check_regular(path)
        with path.open("rb") as file:
            return read_tensors(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{printable(path)}: no such file") from error
    # What parsers raise on arbitrary bytes is an open list.
    except Exception as error:
        raise ValueError(f"{printable(path)}: not {kind}, or damaged ({phrase(error)})") from error


def read_tensors(file: BinaryIO) -> dict[str, Any]:
    """Read an open file of `write_tensors`.

    Args:
        file: at any position.

    Raises:
        Exception: what parsers raise on damaged files, and `ValueError` of the checks.

    Examples:
        >>> import io
        >>> file = io.BytesIO()
        >>> write_tensors({"a": torch.ones(2)}, file)
        >>> read_tensors(file)
        {'a': tensor([1., 1.])}
    """
    size = file.seek(0, os.SEEK_END)
    _check_archive(file, size)
    file.seek(0)
    content = torch.load(file, map_location="cpu", weights_only=True)
    if type(content) not in (dict, OrderedDict):
        raise ValueError("a torch file, but without named entries")
    _check_values(content, size)
    return content


def _check_archive(file: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if len({part.filename for part in parts}) < len(parts):
            raise ValueError("two of its parts have one name")
        for part in parts:
            if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
                raise ValueError("a compressed part, which torch never writes")
            if part.is_dir() or part.external_attr & DIRECTORY:
                # torch would leave the tensor's memory as it found it.
                raise ValueError("a folder in place of a part")
        if sum(part.file_size for part in parts) > size:
            raise ValueError("its parts promise more bytes than it has")
        names = [part for part in parts if part.filename.endswith("/data.pkl")]
        # With constants it would be a script, which torch runs.
        script = any(part.filename.endswith("/constants.pkl") for part in parts)
        if script or len(names) != 1 or names[0].filename.count("/") != 1:
            raise ValueError("not a file of torch.save")
        if names[0].file_size > MOST_BYTES_OF_NAMES:
            raise ValueError(f"more than {MOST_BYTES_OF_NAMES} bytes of names and settings")
        for part in parts:
            # Reading to the end compares the checksum, which torch does not.
            with archive.open(part) as stream:
                while stream.read(CHUNK):
                    pass
        _check_names(archive.read(names[0]))


def _check_names(data: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _LOOK_UPS or (opcode.name == "GLOBAL" and argument not in _NAMES):
            raise ValueError(f"it asks for {str(argument)[:60]!r}, which is neither a tensor nor a plain value")


def _check_values(content: dict[str, Any], size: int) -> None:
    """See that everything is a tensor or a plain value, not too deep, and that no tensor exceeds its numbers."""
    bytes_of_tensors, count = 0, 0
    remaining: list[tuple[Any, int]] = [(content, 0)]
    while remaining:
        value, depth = remaining.pop()
        count += 1
        # A list that holds one list twice, and that one another twice, is short in a file and endless to walk.
        if count > MOST_VALUES or depth > MOST_DEPTH:
            raise ValueError(f"more than {MOST_VALUES} values, or deeper than {MOST_DEPTH} levels")
        if type(value) is Tensor:
            if value.layout != torch.strided:
                raise ValueError(f"a tensor of layout {value.layout}")
            bytes_of_tensors += value.numel() * value.element_size()
        elif type(value) in (dict, OrderedDict):
            if any(type(key) not in (str, int) for key in value):
                raise ValueError("a key that is neither a word nor a whole number")
            remaining.extend((entry, depth + 1) for entry in value.values())
            attributes = vars(value) if type(value) is OrderedDict else {}
            if attributes.keys() - {"_metadata"}:
                raise ValueError("a dict with attributes")
            remaining.extend((entry, depth + 1) for entry in attributes.values())
        elif type(value) in (list, tuple):
            remaining.extend((entry, depth + 1) for entry in value)
        elif type(value) is int:
            if abs(value) >= LARGEST_NUMBER:
                raise ValueError("a whole number of more than 63 bits")
        elif value is not None and type(value) not in (bool, float, str, torch.dtype, torch.device):
            raise ValueError(f"a {type(value).__name__}, which is neither a tensor nor a plain value")
    if bytes_of_tensors > size:
        raise ValueError(f"tensors of {bytes_of_tensors} bytes in a file of {size}")
