"""Atomic files: what appears under a name is complete, and what was there before is not lost."""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import pyro_pcflow as pcf
from pyro_pcflow.metrics import Report
from pyro_pcflow.metrics.protocol import Protocol
from pyro_pcflow.metrics.row_store import RowStore
from pyro_pcflow.ops.files import atomic_file, new_file, new_folder, remove_leftovers
from pyro_pcflow.plotting import animate, save_figure, view_clouds
from pyro_pcflow.training.run_folder import RunFolder

resource = pytest.importorskip("resource")


def write(path, content, how=atomic_file, **options):
    with how(path, **options) as file:
        file.write(content)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("how", [new_file, new_folder])
def test_a_link_that_leads_nowhere_is_there(tmp_path, how):
    path = tmp_path / "a"
    path.symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="a exists already and is not overwritten"), how(path):
        pytest.fail("before the work, not after it")
    assert path.is_symlink()
    assert names(tmp_path) == ["a"]


def test_leftovers_are_ones_own(tmp_path):
    others = [".a.txt.mine.tmp", ".b.txt.0123456789abcdef.tmp", ".a.txt.0123456789abcdef.tmp~", "a.txt"]
    for name in [*others, ".a.txt.0123456789abcdef.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / ".a.txt.fedcba9876543210.tmp").symlink_to("a.txt")
    remove_leftovers(tmp_path / "a.txt")
    assert names(tmp_path) == sorted([*others, ".a.txt.fedcba9876543210.tmp"])


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@contextmanager
def full_disk(after):
    """Let no file grow beyond some bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestReplacing:
    def test_permissions_are_kept(self, tmp_path, umask):
        path = tmp_path / "a"
        write(path, b"one")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write(path, b"two")
        assert path.read_bytes() == b"two"
        assert stat.S_IMODE(path.stat().st_mode) == 0o604

    @pytest.mark.parametrize("there", [True, False])
    def test_a_link_stays_and_what_it_points_to_is_written(self, tmp_path, there):
        (tmp_path / "store").mkdir()
        target, link = tmp_path / "store" / "a", tmp_path / "link"
        if there:
            target.write_bytes(b"before")
        link.symlink_to("store/a")
        write(link, b"after")
        assert link.is_symlink()
        assert target.read_bytes() == b"after"
        assert names(tmp_path / "store") == ["a"]
        assert names(tmp_path) == ["link", "store"]

    def test_what_is_no_file_is_not_replaced(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "folder").mkdir()
        (tmp_path / "loop").symlink_to("loop")
        for name in ("pipe", "folder", "loop"):
            with pytest.raises(OSError, match=f"not a regular file.*{name}"):
                write(tmp_path / name, b"x")
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert names(tmp_path) == ["folder", "loop", "pipe"]

    def test_a_planted_link_is_not_followed(self, tmp_path, monkeypatch):
        """Even one under the very name that is drawn."""
        mine = tmp_path / "mine"
        mine.write_bytes(b"mine")
        monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
        (tmp_path / ".a.0000000000000000.tmp").symlink_to(mine)
        with pytest.raises(FileExistsError):
            write(tmp_path / "a", b"x")
        assert mine.read_bytes() == b"mine"

    def test_temporary_names_cannot_be_foretold(self, tmp_path):
        seen = set()
        for _ in range(3):
            with atomic_file(tmp_path / "a") as file:
                seen.update(names(tmp_path))
                file.write(b"x")
        temporary = seen - {"a"}
        assert len(temporary) == 3
        assert all(str(os.getpid()) not in name.removesuffix(".tmp").split(".") for name in temporary)

    @pytest.mark.parametrize("how", [atomic_file, new_file])
    def test_the_longest_name_that_a_folder_takes(self, tmp_path, how):
        for name in ("x" * 255, "ä" * 127):
            write(tmp_path / name, b"x", how)
        assert len(names(tmp_path)) == 2


class TestNew:
    def test_permissions_are_those_of_any_new_file(self, tmp_path, umask):
        write(tmp_path / "a", b"x", new_file)
        with new_folder(tmp_path / "b"):
            pass
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750

    @pytest.mark.parametrize("links", [True, False])
    def test_a_file_of_the_same_content_counts_as_written(self, tmp_path, links, monkeypatch):
        if not links:
            monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(PermissionError(1, "no links")))
        path = tmp_path / "a"
        for _ in range(2):
            write(path, b"same", new_file, or_same=True)
        for content in (b"diff", b"longer"):
            with pytest.raises(FileExistsError, match="a exists already and is not overwritten"):
                write(path, content, new_file, or_same=True)
        assert path.read_bytes() == b"same"
        assert names(tmp_path) == ["a"]

    def test_a_folder_appears_when_it_is_full(self, tmp_path):
        with new_folder(tmp_path / "deep" / "report") as folder:
            write(folder / "a", b"x", new_file)
            assert not (tmp_path / "deep" / "report").exists()
        assert names(tmp_path / "deep") == ["report"]
        assert names(tmp_path / "deep" / "report") == ["a"]
        with pytest.raises(FileExistsError), new_folder(tmp_path / "deep" / "report"):
            pytest.fail("was begun")

    def test_a_folder_that_appears_meanwhile_stays(self, tmp_path):
        with pytest.raises(FileExistsError), new_folder(tmp_path / "a"):
            (tmp_path / "a").mkdir()
        assert names(tmp_path / "a") == []
        assert names(tmp_path) == ["a"]


def report():
    protocol = Protocol("a", "a", "a", 1, 1, 3, "none", "m", {}, {}, 0, (0,), {})
    return Report("a" * 5000, protocol, {"jsd": [0.5]}, [0])


def figure():
    made = Figure()
    made.add_subplot().plot(np.arange(10))
    return made


FLOW = pcf.PointCloudFlow(2, num_couplings=1, hidden_dims=[40])
CLOUDS = torch.randn(1, 2000, 3, generator=torch.Generator().manual_seed(0))


def write_config(folder):
    with RunFolder(folder, {"a": "x" * 5000}, resume=True).locked():
        # Of the two files, only this one is for somebody to read.
        (folder / ".lock").unlink()


def write_checkpoint(folder):
    RunFolder(folder, {}, resume=True).write_checkpoint({"a": CLOUDS})


WRITERS = {
    "save": lambda folder: pcf.save(FLOW, folder / "flow.pt"),
    "checkpoint": write_checkpoint,
    "weights": lambda folder: RunFolder(folder, {}, resume=True).write_model(torch.nn.Linear(99, 99)),
    "config": write_config,
    "rows": lambda folder: RowStore(folder, "0" * 64, "emd", (1, 999)).write(slice(0, 1), torch.zeros(1, 999)),
    "npy": lambda folder: pcf.data.save_clouds(CLOUDS, folder / "new.npy"),
    "npz": lambda folder: pcf.data.save_clouds(CLOUDS, folder / "new.npz"),
    "ply": lambda folder: pcf.data.save_clouds(CLOUDS, folder / "new.ply"),
    "xyz": lambda folder: pcf.data.save_clouds(CLOUDS, folder / "new.xyz"),
    "convert": lambda folder: pcf.data.convert_clouds(folder.parent / "source.npy", folder / "new.npy", 2000),
    "png": lambda folder: save_figure(figure(), folder / "a.png"),
    "svg": lambda folder: save_figure(figure(), folder / "a.svg"),
    "pdf": lambda folder: save_figure(figure(), folder / "a.pdf"),
    "html": lambda folder: view_clouds(CLOUDS[0]).save(folder / "a.html"),
    "webp": lambda folder: animate(CLOUDS[:, :500].expand(3, -1, -1), folder / "a.webp", size=64, turn=90),
    "gif": lambda folder: animate(CLOUDS[:, :500].expand(3, -1, -1), folder / "a.gif", size=64, turn=90),
    "json": lambda folder: report().to_json(folder / "a.json"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_nothing_and_replaces_nothing(tmp_path, writer):
    """Every writer of the library, as the bytes run out at the first, at some or at the last of them."""
    np.save(tmp_path / "source.npy", CLOUDS.numpy())
    folder = tmp_path / "out"
    folder.mkdir()
    WRITERS[writer](folder)
    written = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    size = max(map(len, written.values()))
    for after in (0, size // 3, size - 1):
        empty = tmp_path / str(after)
        empty.mkdir()
        with full_disk(after), pytest.raises((OSError, RuntimeError)):
            WRITERS[writer](empty)
        (empty / ".lock").unlink(missing_ok=True)
        left = {path.relative_to(empty): path.read_bytes() for path in empty.rglob("*") if path.is_file()}
        assert left.items() <= written.items(), "cut, or under a temporary name"
        assert len(left) < len(written)
        WRITERS[writer](empty)
        again = {path.relative_to(empty): path for path in empty.rglob("*") if path.is_file()}
        assert again.keys() == written.keys()


def test_two_that_write_one_file_leave_it_whole(tmp_path):
    path = tmp_path / "a"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["a"]


def test_a_disk_that_is_full_at_the_last_moment(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "a").write_bytes(b"before")
    for how, name in ((atomic_file, "a"), (new_file, "b")):
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / name, b"after", how)
    assert (tmp_path / "a").read_bytes() == b"before"
    assert names(tmp_path) == ["a"]
