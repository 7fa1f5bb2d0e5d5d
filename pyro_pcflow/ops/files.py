"""Files and folders that appear under their names when they are whole, and never before."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["atomic_file", "check_new", "new_file", "new_folder", "remove_leftovers", "write_npy"]

# A name of 255 bytes is the longest that most file systems take; a temporary name has room for so much of another.
NAME_CHARACTERS = 50


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of `path` once it is complete.

    A file that is replaced hands its permissions on. A symbolic link stays, and what it points to is replaced. After an
    error, everything is as before. A process that is killed leaves a hidden file `.NAME.*.tmp` in the same folder,
    which is safe to delete.

    Args:
        path: the file to write or replace; its folder must exist.

    Raises:
        OSError: if `path` is something other than a regular file, such as a folder or a device, or cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_file(Path(folder, "a.txt")) as file:
        ...         _ = file.write(b"complete")
        ...     [entry.name for entry in Path(folder).iterdir()]
        ['a.txt']
    """
    target = Path(os.path.realpath(path))
    before = target.lstat() if os.path.lexists(target) else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        code = errno.EISDIR if stat.S_ISDIR(before.st_mode) else errno.EINVAL
        raise OSError(code, "not a regular file, and not replaced by one: name another file", os.fspath(path))
    with _temporary_file(target) as (file, temporary):
        yield file
        if before is not None:
            temporary.chmod(stat.S_IMODE(before.st_mode))
        _sync(file)
        os.replace(temporary, target)
    _sync_folder(target.parent)


@contextmanager
def new_file(path: str | os.PathLike[str], *, or_same: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that appears as `path` once it is complete, and never replaces anything.

    Args:
        path: the new file; its folder must exist.
        or_same: take a file that is there already and has the very content that was to be written as success. A
            command that was killed between two of its files can be repeated then.

    Raises:
        FileExistsError: if something is there already, a link that leads nowhere included; unless it is the same, it
            stays as it is.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for _ in range(2):
        ...         with new_file(Path(folder, "a.txt")) as file:
        ...             _ = file.write(b"complete")
        Traceback (most recent call last):
        FileExistsError: ... exists already and is not overwritten: name another file
    """
    path = Path(path)
    if not or_same:
        check_new(path)
    with _temporary_file(path) as (file, temporary):
        yield file
        _sync(file)
        try:
            _publish(temporary, path)
        except FileExistsError:
            if not (or_same and path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
                raise
    _sync_folder(path.parent)


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder that appears as `path` once the block ends; the folders that lead to it are made.

    Args:
        path: the new folder.

    Yields:
        A hidden folder beside it, to write into.

    Raises:
        FileExistsError: if something is there already.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with new_folder(Path(parent, "report")) as folder:
        ...         _ = (folder / "a.txt").write_text("complete")
        ...     [entry.name for entry in Path(parent, "report").iterdir()]
        ['a.txt']
    """
    path = Path(path)
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        _sync_folder(temporary)
        # A renaming would replace an empty folder that appeared meanwhile.
        check_new(path)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(path.parent)


def check_new(path: str | os.PathLike[str]) -> None:
    """Raise if something is at a path: a file, a folder, or a link, even one that leads nowhere.

    Raises:
        FileExistsError: naming it.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{os.fspath(path)} exists already and is not overwritten: name another file")


def write_npy(file: BinaryIO, array: NDArray[Any]) -> None:
    """Write an array as `numpy.save` does, but with an error where the disk is full: `numpy.save` may lose the end.

    Args:
        file: open for writing.
        array: of numbers.

    Examples:
        >>> import io
        >>> file = io.BytesIO()
        >>> write_npy(file, np.arange(3))
        >>> _ = file.seek(0)
        >>> np.load(file)
        array([0, 1, 2])
    """
    # C's own buffer, which numpy writes through, is emptied unseen.
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Delete the temporary files that killed processes left of a file; no process may be writing it now.

    Args:
        path: the file that they were to become.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a.txt", ".a.txt.0123456789abcdef.tmp", ".a.txt.mine.tmp"):
        ...         Path(folder, name).touch()
        ...     remove_leftovers(Path(folder, "a.txt"))
        ...     sorted(entry.name for entry in Path(folder).iterdir())
        ['.a.txt.mine.tmp', 'a.txt']
    """
    path = Path(path)
    ours = re.compile(re.escape(f".{path.name[:NAME_CHARACTERS]}.") + r"[0-9a-f]{16}\.tmp")
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                Path(entry).unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    # Random, so that no link or file can be put there before; hidden, so that no loader takes it for data.
    return path.with_name(f".{path.name[:NAME_CHARACTERS]}.{secrets.token_hex(8)}.tmp")


@contextmanager
def _temporary_file(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside `path`, with the permissions of any new file, that is deleted unless it gets another name."""
    temporary = _temporary_name(path)
    try:
        # Exclusive creation follows no link.
        with temporary.open("xb") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    try:
        # Unlike a renaming, a second name never replaces a file that appeared meanwhile.
        os.link(temporary, path)
    except FileExistsError:
        check_new(path)
        raise
    except OSError:
        # A file system without links.
        check_new(path)
        os.rename(temporary, path)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Let the new name outlast a loss of power, on systems where a folder can be opened for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        # A folder that may be written to and not be listed.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
