"""The compiled kernel: once, whole, by one process at a time, and never one that somebody else could have put there."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyro_pcflow.kernels.cpu import build as compiler

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the kernel's compiler is one of POSIX")

LOAD = "from pyro_pcflow.kernels.cpu.build import compiled; compiled('fused', 'portable')"


@pytest.fixture(scope="session")
def tiny_library(tmp_path_factory):
    """A library of one function, which loads as any other."""
    try:
        command = compiler.find_compiler()
    except compiler.KernelUnavailableError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.cpp").write_text('extern "C" int answer() { return 42; }\n')
    subprocess.run([*command, "-shared", "-fPIC", str(folder / "tiny.cpp"), "-o", str(folder / "tiny.so")], check=True)
    return folder / "tiny.so"


@pytest.fixture
def stub(tiny_library, tmp_path, monkeypatch):
    """A compiler that makes the tiny library at once, and notes that it was called; a cache and no home but these."""
    script, calls = tmp_path / "stub-compiler", tmp_path / "calls"
    script.write_text(
        f'#!/bin/sh\nfor last; do :; done\necho "$@" >> {calls}\n'
        f'if [ -n "$SLOWLY" ]; then printf broken > "$last"; touch "$SLOWLY"; sleep 100; fi\n'
        f'cp {tiny_library} "$last"\n'
    )
    script.chmod(0o755)
    calls.touch()
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "cache"))
    compiler._private_folder.cache_clear()
    compiler._say_once.cache_clear()
    yield calls
    compiler._private_folder.cache_clear()


def compiles(calls):
    return len(calls.read_text().splitlines())


def libraries(cache):
    return sorted(path.name for path in cache.glob("*.so"))


def load():
    library = compiler.compiled("fused", "portable")
    assert library.answer() == 42
    return Path(library._name)


def start(**environment):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LOAD],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    return errors


# Once


def test_it_is_compiled_once_and_says_so(stub, tmp_path, caplog):
    assert not compiler.is_kept("fused", "portable")
    path = load()
    assert compiler.is_kept("fused", "portable")
    assert load() == path
    assert compiles(stub) == 1
    assert [record.message for record in caplog.records].count(
        f"compiling the fused kernel, once for this machine, into {path}"
    ) == 1
    assert path.parent == tmp_path / "cache"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("change", ["flags", "instructions", "sources", "machine"])
def test_another_kernel_is_another_file(stub, tmp_path, monkeypatch, change):
    first = load()
    if change == "flags":
        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-g"))
    elif change == "instructions":
        monkeypatch.setitem(compiler.INSTRUCTION_SETS, "portable", ("-msse4",))
    elif change == "machine":
        monkeypatch.setattr(compiler.platform, "machine", lambda: "other")
    else:
        sources = shutil.copytree(compiler.SOURCES, tmp_path / "sources")
        (sources / "arena.h").write_text("// changed")
        monkeypatch.setattr(compiler, "SOURCES", Path(sources))
    assert not compiler.is_kept("fused", "portable")
    assert load() != first
    assert compiles(stub) == 2
    assert all(flag in stub.read_text().splitlines()[-1] for flag in compiler._flags("fused", "portable"))


def test_each_library_depends_on_its_own_sources_alone(stub, tmp_path, monkeypatch):
    sources = shutil.copytree(compiler.SOURCES, tmp_path / "sources")
    monkeypatch.setattr(compiler, "SOURCES", Path(sources))

    def names():
        return [compiler._file_name(library, "portable") for library in ("fused", "clouds")]

    before = names()
    for changed, which in [("fused.cpp", [True, False]), ("clouds.cpp", [False, True]), ("threads.h", [True, True])]:
        with (sources / changed).open("a") as stream:
            stream.write("// changed")
        after = names()
        assert [one != other for one, other in zip(before, after, strict=True)] == which
        before = after
    compiler.compiled("clouds", "portable")
    assert not compiler.is_kept("fused", "portable")
    assert compiler.is_kept("clouds", "portable")
    assert compiles(stub) == 1
    assert f"{sources}/clouds.cpp" in stub.read_text()


def test_other_instructions_than_the_machine_has_are_refused(stub, monkeypatch):
    monkeypatch.setattr(compiler, "instruction_sets", lambda: ["portable"])
    with pytest.raises(compiler.KernelUnavailableError, match="no avx512 instructions, only portable"):
        compiler.compiled("clouds", "avx512")
    assert Path(compiler.compiled("clouds")._name).name.startswith("clouds-portable-")


@pytest.mark.slow
def test_two_at_once_compile_once(stub):
    messages = "".join(finished(process) for process in [start(), start()])
    assert messages.count("compiling the fused kernel") == 1
    assert compiles(stub) == 1


@pytest.mark.slow
def test_an_interrupted_compile_leaves_nothing_broken(stub, tmp_path):
    """A compiler that stops in the middle of its file, and is killed with its caller."""
    started, cache = tmp_path / "started", tmp_path / "cache"
    process = start(SLOWLY=str(started))
    for _ in range(600):
        if started.exists():
            break
        time.sleep(0.1)
    assert [path for path in cache.iterdir() if path.is_dir()]
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stderr.close()
    assert libraries(cache) == []
    load()
    assert len(libraries(cache)) == 1
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho 'error: no such flag' >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    monkeypatch.setenv(compiler.CACHE, str(tmp_path / "cache"))
    with pytest.raises(compiler.KernelUnavailableError, match="status 3: error: no such flag"):
        compiler.compiled("fused", "portable")
    assert libraries(tmp_path / "cache") == []


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++ -v")
    with pytest.raises(compiler.KernelUnavailableError, match="CXX is not found: /nowhere/c"):
        compiler.find_compiler()


# Whole


def replace(path, content):
    """Put another file in a library's place, whose pages this process may have in its memory."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").chmod(0o755)
    path.with_suffix(".new").replace(path)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: replace(path, path.read_bytes()[:1000]),
        lambda path: replace(path, b""),
        flip_a_bit,
        lambda path: path.with_suffix(".sha256").unlink(),
    ],
)
def test_a_damaged_library_is_compiled_again(stub, caplog, damage):
    path = load()
    damage(path)
    assert not compiler.is_kept("fused", "portable")
    assert load() == path
    assert compiles(stub) == 2
    assert "is damaged" in caplog.text
    assert load() == path
    assert compiles(stub) == 2


def test_a_library_that_does_not_load_is_compiled_again(stub, caplog):
    """Whole, but for another machine, as in a home that several share."""
    path = compiler._place(compiler._file_name("fused", "portable"))
    replace(path, b"for another machine")
    path.with_suffix(".sha256").write_text(compiler._checksum(path))
    assert compiler.is_kept("fused", "portable")
    assert load() == path
    assert compiles(stub) == 1
    assert caplog.text.count("is compiled again") == 1


def test_what_the_compiler_makes_and_does_not_load_is_told(stub, tmp_path, monkeypatch):
    (tmp_path / "stub-compiler").write_text('#!/bin/sh\nfor last; do :; done\necho nonsense > "$last"\n')
    with pytest.raises(compiler.KernelUnavailableError, match="no compiled kernel"):
        compiler.compiled("fused", "portable")


# Nobody else's


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_to_is_not_used(stub, tmp_path, caplog, mode):
    cache = tmp_path / "cache"
    load()
    cache.chmod(mode)
    assert load().parent != cache
    assert compiles(stub) == 2
    assert caplog.text.count("compiled kernels are not kept") == 1
    assert "cache is writable by other users" in caplog.text
    cache.chmod(0o700)
    assert load().parent == cache


def test_a_file_that_others_can_write_to_is_compiled_again(stub, caplog):
    path = load()
    for mode in (0o777, 0o770):
        path.chmod(mode)
        load()
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert compiles(stub) == 3
    assert "is writable by other users" in caplog.text


class Owned:
    """The status of a file, but for its owner."""

    def __init__(self, status, owner):
        self.st_uid, self.st_mode = owner, status.st_mode


@pytest.mark.parametrize(("owner", "trusted"), [(os.geteuid(), True), (0, True), (54321, False)])
@pytest.mark.parametrize("owned", ["cache", "above", "library"])
def test_only_this_user_and_root_are_trusted(stub, tmp_path, monkeypatch, owner, trusted, owned):
    path = load()
    name = {"cache": path.parent, "above": path.parent.parent, "library": path}[owned]
    real = Path.stat
    monkeypatch.setattr(
        Path, "stat", lambda self, **options: Owned(real(self), owner) if self == name else real(self, **options)
    )
    assert (compiler._distrust(path) is None) == trusted
    assert compiler.is_kept("fused", "portable") == trusted


@pytest.mark.parametrize(("mode", "trusted"), [(0o777, False), (0o1777, True), (0o775, True)])
def test_folders_above_are_nobody_elses_to_replace(tmp_path, mode, trusted):
    """Where everybody may rename folders, another one can be put in a folder's place; the sticky bit forbids it."""
    (tmp_path / "above" / "cache").mkdir(parents=True)
    (tmp_path / "above").chmod(mode)
    assert (compiler._distrust(tmp_path / "above" / "cache") is None) == trusted


def test_a_link_is_what_it_points_to(stub, tmp_path):
    cache = tmp_path / "cache"
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    cache.symlink_to(tmp_path / "open")
    assert load().parent != cache
    cache.unlink()
    (tmp_path / "closed").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "closed")
    assert load().parent == cache


# A way on


def no_home(monkeypatch, tmp_path):
    """As `Path.home` without HOME and for a user who is not in the list of users."""
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
    return "Could not determine home directory"


def missing_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))
    return "nonexistent does not exist"


def home_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    return "File exists"


def home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "pyro_pcflow").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "pyro_pcflow" and real(path, mode))
    return "is not writable"


@pytest.mark.parametrize("home", [no_home, missing_home, home_that_is_a_file, home_that_cannot_be_written])
def test_without_a_home_it_is_compiled_for_this_process(stub, tmp_path, monkeypatch, caplog, home):
    monkeypatch.delenv(compiler.CACHE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    reason = home(monkeypatch, tmp_path)
    path = load()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load() == path
    assert compiles(stub) == 1
    assert caplog.text.count("compiled kernels are not kept") == 1
    assert reason in caplog.text
    assert "set PYRO_PCFLOW_CACHE" in caplog.text
    assert not (tmp_path / "nonexistent").exists()


@pytest.mark.slow
def test_a_private_folder_goes_with_its_process(stub, tmp_path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = start(**{compiler.CACHE: str(stub / "no folder"), "TMPDIR": str(temporary)})
    assert "compiled kernels are not kept" in finished(process)
    assert list(temporary.iterdir()) == []
