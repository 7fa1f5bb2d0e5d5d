"""The files of a path, in a fixed order, and their splits."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pyro_pcflow.data.errors import cloud_error
from pyro_pcflow.data.formats import EXTENSIONS
from pyro_pcflow.ops.reading import phrase, printable

SPLITS = ("train", "val", "test")
# Of files that are passed over, at most this many are named.
_NAMED = 5


@dataclass(frozen=True)
class Entry:
    """One file: its `path`, its `name` relative to the folder that is read, and the `split` of its folder."""

    path: Path
    name: str
    split: str | None


@dataclass(frozen=True)
class Listing:
    """What a path stands for: at least one of `entries`, sorted by name, and the names of other files in the folder."""

    path: Path
    entries: list[Entry]
    passed_over: list[str]

    def warn(self, stacklevel: int) -> None:
        """Name the files that were passed over in one `UserWarning`, if there are any; `stacklevel` as for `warn`."""
        if not self.passed_over:
            return
        more = ", ..." if len(self.passed_over) > _NAMED else ""
        names = ", ".join(map(printable, self.passed_over[:_NAMED])) + more
        count = f"{len(self.passed_over)} file{'s were' if len(self.passed_over) > 1 else ' was'}"
        known = ", ".join(EXTENSIONS)
        text = f"{printable(self.path)}: {count} passed over, whose endings are not known: {names}; known are {known}"
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)


def list_entries(path: Path, split: str | None) -> Listing:
    """List the file at a path, or every readable kind of file below a folder.

    Hidden files and folders count as not there, as for `ls`. Files of other kinds are named in the result.

    Args:
        path: a file or a folder.
        split: keep only files below folders of this name, and npz files, which know their own splits.

    Returns:
        At least one entry.

    Raises:
        FileNotFoundError: nothing is there.
        CloudError: nothing usable is there, or it may not be looked at.
    """
    try:
        path.stat()
        is_folder = path.is_dir()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{printable(path)}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise cloud_error(path, f"can't be looked at ({phrase(error)})", "expected a readable path") from error
    if not is_folder:
        return Listing(path, [Entry(path, path.name, _folder_split((path.absolute().parent.name,)))], [])
    found = _walk(path)
    entries = [entry for entry in found if _is_known(entry)]
    if not entries:
        raise cloud_error(path, "no meshes or clouds in this folder", f"expected {', '.join(EXTENSIONS)}")
    others = [entry for entry in found if not _is_known(entry) and (split is None or entry.split in (split, None))]
    chosen = entries if split is None else _select(path, entries, split)
    return Listing(path, chosen, [entry.name for entry in others])


def _is_known(entry: Entry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in EXTENSIONS


def _walk(root: Path) -> list[Entry]:
    def refuse(error: OSError) -> NoReturn:
        raise cloud_error(Path(error.filename), f"can't be listed ({error.strerror})", "expected a readable folder")

    entries = []
    # Names further up are where the user keeps data, and say nothing about it.
    above = (root.absolute().name,)
    for folder, subfolders, files in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inside = Path(folder).relative_to(root)
        split = _folder_split(above + inside.parts)
        for file in files:
            if not file.startswith("."):
                entries.append(Entry(Path(folder, file), (inside / file).as_posix(), split))
    return sorted(entries, key=lambda entry: entry.name)


def _folder_split(folders: tuple[str, ...]) -> str | None:
    return next((name for name in reversed(folders) if name in SPLITS), None)


def _select(root: Path, entries: list[Entry], split: str) -> list[Entry]:
    for entry in entries:
        if entry.split is None and entry.path.suffix.lower() != ".npz":
            found = f"belongs to no split, and split={split!r} was asked for"
            raise cloud_error(entry.path, found, f"expected it below a folder {', '.join(SPLITS)}")
    chosen = [entry for entry in entries if entry.split in (split, None)]
    if not chosen:
        there = ", ".join(sorted({str(entry.split) for entry in entries}))
        raise cloud_error(root, f"no files of split {split!r}", f"there are {there}")
    return chosen
