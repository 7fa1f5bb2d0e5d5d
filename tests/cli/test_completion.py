"""`pcflow completion`: the script, in the shell that it is for."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from pyro_pcflow.cli import COMMANDS, main

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "pcflow.bash"
    command = [sys.executable, "-c", "from pyro_pcflow.cli import main; main(['completion', 'bash'])"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["tr"], {"train"}),
        (["co"], {"complete", "convert", "completion"}),
        (["train", "--max"], {"--max-seconds", "--max-steps"}),
        (["train", "--model", "v"], {"vae"}),
        (["info", "--js"], {"--json"}),
        (["completion", ""], {"bash", "zsh"}),
    ],
)
def test_bash(script, words, found):
    line = " ".join(f"'{word}'" for word in ["pcflow", *words])
    program = f"source '{script}'; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_pcflow; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", program], check=True, capture_output=True, text=True)
    assert {*done.stdout.split()} >= found
    if words[-1]:
        assert all(word.startswith(words[-1]) for word in done.stdout.split())


def test_zsh_and_all_commands(capsys):
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("#compdef pcflow")
    assert all(name in text for name in COMMANDS)


def test_torch_is_not_needed(script):
    program = (
        "import sys; from pyro_pcflow.cli import main; main(['completion', 'bash']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'pyro-pcflow[completion]'" in capsys.readouterr().err
