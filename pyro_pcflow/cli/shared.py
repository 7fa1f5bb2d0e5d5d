"""What several commands share: loading a model, and the names of new files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.models import PointCloudVAE

__all__ = ["check_new", "draw_clouds", "given", "load_model"]


def given(value: Any, default: Any) -> Any:
    """A value, or the default where it was not given."""
    return default if value is None else value


def load_model(run: Path, device: str) -> PointCloudFlow | PointCloudVAE:
    """The model of a run folder, or of a model file.

    Raises:
        ValueError: another kind of module.
        OSError: nothing to read there.
    """
    from pyro_pcflow.distributions import PointCloudFlow
    from pyro_pcflow.models import PointCloudVAE
    from pyro_pcflow.serialization import load
    from pyro_pcflow.training.settings import as_device

    path = run / "model.pt" if run.is_dir() else run
    model = load(path, device=as_device(device))
    if not isinstance(model, PointCloudFlow | PointCloudVAE):
        raise ValueError(f"{path} holds a {type(model).__name__}: expected a PointCloudFlow or a PointCloudVAE")
    return model


def draw_clouds(model: PointCloudFlow | PointCloudVAE, num_clouds: int, num_points: int) -> Tensor:
    """Samples of a model, (num_clouds, num_points, D)."""
    from pyro_pcflow.distributions import PointCloudFlow

    if isinstance(model, PointCloudFlow):
        return model.cloud(num_points=num_points).sample((num_clouds,))
    return model.sample(num_clouds, num_points)


def check_new(path: Path, suffixes: Sequence[str]) -> None:
    """See that a file may be written.

    Raises:
        ValueError: a name that ends in none of the suffixes.
        FileExistsError: it is there already.
    """
    if path.suffix not in suffixes:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    if path.exists():
        raise FileExistsError(f"{path} exists already and is not overwritten: name another file")
