"""The files of a path, in a fixed order, and their splits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
    """One file.

    Attributes:
        path: of the file.
        name: relative to the folder that is read.
        split: the innermost folder that is called train, val or test; None if there is none.
        category: the outermost other folder below the one that is read; None if there is none.
    """

    path: Path
    name: str
    split: str | None
    category: str | None = None


@dataclass(frozen=True)
class FolderOptions:
    """Which files of a folder are meant.

    Attributes:
        include: patterns as of a shell, such as `*.ply` or `scans/*.las`, of names relative to the folder, or of the
            last part of them alone; none means all files of known endings.
        subfolders: whether files of folders in it are meant, too.
        follow_links: whether links to folders are followed; each folder is visited once.
    """

    include: tuple[str, ...] = ()
    subfolders: bool = True
    follow_links: bool = False

    @classmethod
    def of(cls, include: str | Sequence[str] | None, subfolders: bool, follow_links: bool) -> FolderOptions:
        """The same of one pattern, several, or None."""
        patterns = (include,) if isinstance(include, str) else tuple(include or ())
        return cls(patterns, subfolders, follow_links)

    def means(self, name: str) -> bool:
        """Whether a file of a name, with its folders, is meant."""
        last = name.rpartition("/")[2]
        return not self.include or any(fnmatchcase(name, some) or fnmatchcase(last, some) for some in self.include)


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


def list_entries(path: Path, split: str | None, options: FolderOptions = FolderOptions()) -> Listing:
    """List the file at a path, or every readable kind of file below a folder.

    Hidden files and folders count as not there, as for `ls`. Files of other kinds are named in the result.

    Args:
        path: a file or a folder.
        split: keep only files below folders of this name, and npz files, which know their own splits.
        options: which files of a folder are meant.

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
    found = [entry for entry in _walk(path, options) if options.means(entry.name)]
    entries = [entry for entry in found if _is_known(entry)]
    if not entries:
        of_names = f" whose names are like {' or '.join(options.include)}" if options.include else ""
        raise cloud_error(path, f"no meshes or clouds in this folder{of_names}", f"expected {', '.join(EXTENSIONS)}")
    others = [entry for entry in found if not _is_known(entry) and (split is None or entry.split in (split, None))]
    chosen = entries if split is None else _select(path, entries, split)
    return Listing(path, chosen, [entry.name for entry in others])


def _is_known(entry: Entry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in EXTENSIONS


def _walk(root: Path, options: FolderOptions) -> list[Entry]:
    def refuse(error: OSError) -> NoReturn:
        raise cloud_error(Path(error.filename), f"can't be listed ({error.strerror})", "expected a readable folder")

    entries = []
    # Names further up are where the user keeps data, and say nothing about it.
    above = (root.absolute().name,)
    visited = {_identity(root)}
    for folder, subfolders, files in os.walk(root, onerror=refuse, followlinks=options.follow_links):
        subfolders[:] = [name for name in subfolders if options.subfolders and not name.startswith(".")]
        if options.follow_links:
            # A link to a folder above would be walked without end.
            subfolders[:] = [name for name in sorted(subfolders) if _is_new(Path(folder, name), visited)]
        inside = Path(folder).relative_to(root)
        split = _folder_split(above + inside.parts)
        category = next((name for name in inside.parts if name not in SPLITS), None)
        for file in files:
            if not file.startswith("."):
                entries.append(Entry(Path(folder, file), (inside / file).as_posix(), split, category))
    return sorted(entries, key=lambda entry: entry.name)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_new(folder: Path, visited: set[tuple[int, int]]) -> bool:
    identity = _identity(folder)
    if identity in visited:
        return False
    visited.add(identity)
    return True


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
