"""The package as a user installs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pyro_pcflow as pcf

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, **options)


def test_every_public_name_is_there():
    assert pcf.__all__ == sorted(pcf.__all__)
    for name in pcf.__all__:
        assert getattr(pcf, name) is not None
        assert name in dir(pcf)
    with pytest.raises(AttributeError, match="no attribute 'flows'"):
        pcf.flows  # noqa: B018


def test_the_declared_torch_is_one_that_reads_weights_safely():
    """GHSA-63cw-57p8-fm3p was mended in 2.10; the pages say what the package asks for."""
    declared = re.search(r'"torch>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert declared is not None
    assert tuple(map(int, declared.groups())) >= (2, 10)
    version = ".".join(declared.groups())
    assert f"torch must be {version} or later" in (ROOT / "docs" / "install.md").read_text("utf-8")
    assert f"torch {version}, Pyro" in (ROOT / "docs" / "comparison.md").read_text("utf-8")


def test_import_is_light_and_changes_nothing():
    """Neither torch nor Pyro is loaded by the import alone; loading all changes no setting of theirs."""
    run(sys.executable, "-c", "import sys, pyro_pcflow; assert not {'torch', 'pyro', 'trimesh'} & set(sys.modules)")
    run(
        sys.executable,
        "-c",
        "import torch, pyro, random\n"
        "def state(): return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),\n"
        "    torch.distributions.Distribution._validate_args, torch.initial_seed(), random.getstate(),\n"
        "    pyro.settings.get(), torch.get_rng_state().sum().item(), len(pyro.get_param_store()))\n"
        "before = state()\n"
        "import pyro_pcflow as pcf\n"
        "[getattr(pcf, name) for name in pcf.__all__]\n"
        "assert state() == before, (before, state())",
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    (path,) = out.glob("*.whl")
    assert len(list(out.glob("*.tar.gz"))) == 1
    return path


def test_no_file_of_the_package_is_kept_out_of_the_wheel():
    """The build leaves out what git ignores: an ignored file would work here, and be missing once installed."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("there is no git here to ask")
    ignored = run("git", "ls-files", "--others", "--ignored", "--exclude-standard", "pyro_pcflow", cwd=ROOT).stdout
    assert [name for name in ignored.splitlines() if "__pycache__" not in name] == []
    kept = run("git", "ls-files", "pyro_pcflow", "LICENSE", "NOTICE", cwd=ROOT).stdout.splitlines()
    weights = {f"pyro_pcflow/models/{name}.pt" for name in pcf.models.PRETRAINED}
    assert {"LICENSE", "NOTICE", "pyro_pcflow/py.typed"} | weights <= set(kept)


@pytest.mark.exhaustive
def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pyro_pcflow", f"pyro_pcflow-{pcf.__version__}.dist-info"}
    assert "pyro_pcflow/py.typed" in names
    assert any(name.startswith("pyro_pcflow/data/examples/") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    # Of weights, each file has its own limit.
    files = zipfile.ZipFile(wheel).infolist()
    assert sum(file.compress_size for file in files if not file.filename.endswith(".pt")) < 6.4e6


@pytest.mark.exhaustive
def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    """Installed alone; its dependencies are lent by this environment, at the end of the path."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    # All of them: torch may lie in another folder than pytest. A .pth file of an editable install would lead back to
    # the checkout; plain path entries do not run it.
    lenders = [path for path in sys.path if path.endswith("site-packages")]
    (folder,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (folder / "lenders.pth").write_text("\n".join(lenders))
    script = (
        "import torch, pyro_pcflow as pcf, pathlib\n"
        "assert 'venv' in pcf.__file__, pcf.__file__\n"
        "flow = pcf.PointCloudFlow(3, num_couplings=2, hidden_dims=[8])\n"
        "cloud = pcf.data.load_example('spot', 50)\n"
        "assert flow.cloud(num_points=50).log_prob(cloud).shape == (1,)\n"
        "print(pcf.__version__)"
    )
    assert run(python, "-c", script, cwd=tmp_path).stdout.strip() == pcf.__version__
    assert run(tmp_path / "venv" / "bin" / "pcflow", "--version").stdout.split() == ["pyro-pcflow", pcf.__version__]
