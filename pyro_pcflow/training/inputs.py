"""Tensors, arrays and Datasets, checked and taken as points, clouds, or either with contexts."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pyro_pcflow.data import MappedClouds
from pyro_pcflow.ops.origin import as_exact, find_origin, narrowed
from pyro_pcflow.training.objective import data_dtype_of, dtype_of, feature_dim_of, is_normalized
from pyro_pcflow.training.point_batches import CloudsWithContexts, Points
from pyro_pcflow.training.sources import Clouds, MappedSource, RaggedClouds, Source

__all__ = [
    "as_clouds",
    "as_contexts",
    "as_density_data",
    "as_points",
    "as_tensor",
    "check_dtype_of_points",
    "dtype_of_points",
]


def as_tensor(data: Any, name: str) -> Tensor:
    """A tensor or an array as a tensor, or a `TypeError` that calls it by its name."""
    if isinstance(data, np.ndarray) and not (data.flags.writeable and data.flags.c_contiguous):
        # torch warns about memory that it may not write to, and cannot read it backwards.
        data = data.copy()
    try:
        points = torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a tensor, an array or a Dataset of points, got {type(data).__name__} ({error})"
        ) from error
    if points.is_complex():
        raise TypeError(f"{name}: expected real coordinates, got {points.dtype}")
    return points


def as_points(data: Any, dtype: torch.dtype, point_dim: int | None, name: str = "data") -> Tensor:
    """Check data and flatten it to points.

    Args:
        data: shape (N, D) or (S, N, D), a tensor, an array, or a `Dataset` of items of shape (D,) or (N, D).
        dtype: data type of the points; those that may not fit it are kept in float64, see `as_exact`.
        point_dim: expected number of coordinates `D`, or None for any.
        name: what the data is called in an error.

    Returns:
        Points of shape (M, D).

    Raises:
        TypeError: if the data is not numeric.
        ValueError: if it is empty, of another shape, or not finite; the message names the first bad point.
    """
    if isinstance(data, Dataset):
        points = _points_of_dataset(data, name)
    else:
        points = as_tensor(data, name)
        if points.dim() not in (2, 3):
            raise ValueError(f"{name}: expected shape (N, D) or (S, N, D), got {tuple(points.shape)}")
    if points.numel() == 0:
        raise ValueError(f"{name}: expected at least one point, got shape {tuple(points.shape)}")
    if point_dim is not None and points.shape[-1] != point_dim:
        raise ValueError(
            f"{name}: its points have {points.shape[-1]} coordinates (shape {tuple(points.shape)}), but the module "
            f"expects {point_dim}"
        )
    points = as_exact(points.detach(), dtype, name)
    _check_finite(points.to(dtype), dtype, name, "points")
    return points.reshape(-1, points.shape[-1])


def as_contexts(data: Any, count: int, dtype: torch.dtype, context_dim: int | None, name: str = "data") -> Tensor:
    """Check the contexts of points or clouds.

    Args:
        data: shape (K, C), one context for each of the points or clouds.
        count: how many `K` there must be.
        dtype: data type of the contexts.
        context_dim: expected size `C`, or None for any.
        name: what the data is called in an error.

    Raises:
        TypeError: if the contexts are not numeric.
        ValueError: if they are of another shape, or not finite.
    """
    name = f"{name}, contexts"
    contexts = as_tensor(_stacked(data, name), name)
    expected = f"({count}, {'C' if context_dim is None else context_dim})"
    if contexts.dim() != 2 or len(contexts) != count or context_dim not in (None, contexts.shape[-1]):
        raise ValueError(
            f"{name}: expected one for each point (N, D), or for each cloud (S, N, D), of shape {expected}, got "
            f"{tuple(contexts.shape)}"
        )
    contexts = contexts.detach().to(dtype)
    _check_finite(contexts, dtype, name, "contexts")
    return contexts


def as_clouds(data: Any, dtype: torch.dtype, point_dim: int | None, device: torch.device, name: str = "data") -> Source:
    """Check data and take it as clouds.

    Args:
        data: clouds of shape (S, N, D), a tensor or an array; a `MappedClouds`; a list or a `Dataset` of clouds (N, D)
            of any sizes; a `Dataset` of pairs of a cloud and a label; or a pair of any of the former and labels (S,).
        dtype: data type of the points; those that may not fit it are kept in float64, see `as_exact`.
        point_dim: expected number of coordinates `D`, or None for any.
        device: where batches of a file are needed.
        name: what the data is called in an error.

    Raises:
        TypeError: if the data is not numeric.
        ValueError: if it is empty, of another shape, or not finite; the message names the first bad cloud.
    """
    labels = None
    if _is_pair(data):
        data, labels = data
        labels = as_tensor(labels, f"{name}, labels")
    if isinstance(data, MappedClouds):
        # Here, and not after hours of training, when a batch first draws it.
        data.check_finite()
        kept = torch.float64 if data.dtype == torch.float64 else dtype
        clouds: Clouds | RaggedClouds | MappedSource = MappedSource(data, torch.arange(len(data)), None, device, kept)
    elif isinstance(data, Dataset | list):
        clouds, own_labels = _clouds_of_items(data, dtype, name)
        labels = own_labels if labels is None else labels
    else:
        points = as_tensor(data, name)
        if points.dim() != 3:
            raise ValueError(
                f"{name}: expected clouds of shape (S, N, D) for a model of many clouds, got {tuple(points.shape)}"
            )
        clouds = Clouds(as_exact(points.detach(), dtype, name))
    if len(clouds) == 0 or clouds.max_points == 0:
        raise ValueError(f"{name}: expected at least one cloud with a point, got {len(clouds)} clouds")
    if point_dim is not None and clouds.point_dim != point_dim:
        raise ValueError(f"{name}: its points have {clouds.point_dim} coordinates, but the module expects {point_dim}")
    if not isinstance(clouds, MappedSource):
        _check_finite_clouds(clouds, dtype, name)
    if labels is not None:
        if labels.shape != (len(clouds),) or labels.is_floating_point():
            raise ValueError(
                f"{name}: expected one whole number for each of {len(clouds)} clouds as labels, got {labels.dtype} of "
                f"shape {tuple(labels.shape)}"
            )
        place = device if isinstance(clouds, MappedSource) else clouds.device
        clouds = replace(clouds, labels=labels.long().to(place))
    return clouds


def _check_finite_clouds(clouds: Clouds | RaggedClouds, dtype: torch.dtype, name: str) -> None:
    bad = (~clouds.points.to(dtype).isfinite().all(-1)).nonzero()
    if not len(bad):
        return
    if isinstance(clouds, RaggedClouds):
        cloud = int((clouds.starts <= bad[0, 0]).nonzero()[-1])
        point = int(bad[0, 0] - clouds.starts[cloud])
    else:
        cloud, point = bad[0].tolist()
    raise ValueError(
        f"{name}: {len(bad)} points are NaN or infinite in {dtype}, the first is point {point} of cloud {cloud}"
    )


def as_density_data(
    data: Any, dtype: torch.dtype, point_dim: int | None, context_dim: int | None, name: str
) -> Points | CloudsWithContexts:
    """Check data of a density and take it as points or clouds, with contexts if the data is a pair.

    Args:
        data: as for `fit`.
        dtype: data type of contexts, and of points but for those that are kept in float64, see `as_exact`.
        point_dim: expected number of coordinates `D`, or None for any.
        context_dim: expected size `C` of a context, 0 for none, or None for any or none.
        name: what the data is called in an error.

    Raises:
        TypeError: if the data is not numeric.
        ValueError: if there are contexts and should be none, or none and should be some; as `as_points`, `as_clouds`
            and `as_contexts`.
    """
    if context_dim == 0:
        if _is_pair(data):
            raise ValueError(
                f"{name}: a pair of points and contexts, but the flow was built without a context (context_dim=0): "
                "give points alone, or a flow with a context"
            )
        return Points(as_points(data, dtype, point_dim, name))
    data = _unzipped(data)
    if not _is_pair(data):
        if context_dim is not None:
            raise ValueError(
                f"{name}: a conditional flow (context_dim={context_dim}) needs contexts: give a pair (points, "
                "contexts), or fit a model that supplies them, as PointCloudVAE does, or build the flow with "
                "context_dim=0"
            )
        return Points(as_points(data, dtype, point_dim, name))
    values, contexts = data
    if _num_dims(values, name) == 3:
        clouds = as_clouds(values, dtype, point_dim, torch.device("cpu"), name)
        return CloudsWithContexts(clouds, as_contexts(contexts, len(clouds), dtype, context_dim, name))
    points = as_points(_stacked(values, name), dtype, point_dim, name)
    return Points(points, as_contexts(contexts, len(points), dtype, context_dim, name))


def dtype_of_points(module: nn.Module, clouds: Sequence[Tensor], name: str) -> torch.dtype:
    """The data type that a training keeps points in: that of the weights, or float64 for a flow with an origin.

    Args:
        module: has units already, or will get those of these points.
        clouds: training points, shape (N, D) each.
        name: what the data is called in an error.

    Raises:
        ValueError: if the points would be rounded, or have been.
    """
    dtype, own = dtype_of(module), data_dtype_of(module)
    if own is None or is_normalized(module):
        own = own or dtype
        check_dtype_of_points(clouds, own, name, feature_dim_of(module))
        return own
    if dtype == torch.float64 or find_origin(_joined(clouds), clouds, feature_dim_of(module)) is None:
        return dtype
    return torch.float64


def check_dtype_of_points(clouds: Sequence[Tensor], dtype: torch.dtype, name: str, feature_dim: int = 0) -> None:
    """Raise a `ValueError` if points would be rounded in a data type, or have been in a narrower one.

    Args:
        clouds: shape (N, D) each.
        dtype: what a module takes.
        name: what the data is called in an error.
        feature_dim: how many of the last coordinates are features.
    """
    if dtype == torch.float64 and clouds[0].dtype != torch.float64:
        raise ValueError(
            f"{name}: points in {clouds[0].dtype} for a flow that subtracts an origin in float64: narrower types round "
            "such coordinates, so read them in float64, and do not convert them"
        )
    narrowed(_joined(clouds), dtype, name, clouds, feature_dim)


def _joined(clouds: Sequence[Tensor]) -> Tensor:
    return clouds[0] if len(clouds) == 1 else torch.cat(list(clouds))


def _is_pair(data: Any) -> bool:
    """Whether data is a pair: clouds and labels, or points and contexts."""
    return isinstance(data, tuple) and len(data) == 2


def _unzipped(data: Any) -> Any:
    """A `Dataset` of pairs as a pair of lists; other data as it is."""
    if not isinstance(data, Dataset) or isinstance(data, MappedClouds):
        return data
    items = [data[index] for index in range(len(data))]  # type: ignore[arg-type]
    if not items or not all(_is_pair(item) for item in items):
        return data
    return [item[0] for item in items], [item[1] for item in items]


def _stacked(data: Any, name: str) -> Any:
    """A list of tensors as one tensor; other data as it is."""
    if isinstance(data, list) and data and isinstance(data[0], Tensor):
        try:
            return torch.stack(data)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{name}: expected tensors of one shape ({error})") from error
    return data


def _check_finite(values: Tensor, dtype: torch.dtype, name: str, kind: str) -> None:
    bad = (~values.isfinite().all(-1)).nonzero()
    if len(bad):
        first = ", ".join(map(str, bad[0].tolist()))
        raise ValueError(
            f"{name}: {len(bad)} of {values.numel() // values.shape[-1]} {kind} are NaN or infinite in {dtype}, the "
            f"first at index ({first})"
        )


def _num_dims(values: Any, name: str) -> int:
    """2 for points, 3 for clouds, whatever holds them."""
    if isinstance(values, MappedClouds):
        return 3
    if isinstance(values, list | Dataset) and len(values):  # type: ignore[arg-type]
        item = values[0]
        return 1 + as_tensor(item[0] if isinstance(item, tuple) else item, name).dim()
    return as_tensor(values, name).dim()


def _points_of_dataset(data: Any, name: str) -> Tensor:
    try:
        count = len(data)
    except TypeError as error:
        raise TypeError(f"{name}: expected a Dataset with a length and indices, got {type(data).__name__}") from error
    items: list[Tensor] = []
    for index in range(count):
        item = data[index]
        # A TensorDataset of one tensor hands out tuples of one.
        if isinstance(item, tuple) and len(item) == 1:
            (item,) = item
        points = as_tensor(item, f"{name}, item {index}")
        if points.dim() not in (1, 2) or (items and points.shape[-1] != items[0].shape[-1]):
            expected = f" with D = {items[0].shape[-1]}" if items else ""
            raise ValueError(
                f"{name}, item {index}: expected shape (D,) or (N, D){expected}, got {tuple(points.shape)}"
            )
        items.append(points.reshape(-1, points.shape[-1]))
    if not items:
        raise ValueError(f"{name}: expected at least one point, got an empty {type(data).__name__}")
    return torch.cat(items)


def _clouds_of_items(data: Any, dtype: torch.dtype, name: str) -> tuple[Clouds | RaggedClouds, Tensor | None]:
    clouds: list[Tensor] = []
    labels: list[int] = []
    for index in range(len(data)):
        item = data[index]
        if isinstance(item, tuple) and len(item) == 1:
            (item,) = item
        elif _is_pair(item):
            item, label = item
            try:
                labels.append(operator.index(label))
            except TypeError as error:
                raise TypeError(f"{name}, item {index}: expected a whole number as label, got {label!r}") from error
        points = as_tensor(item, f"{name}, item {index}")
        if points.dim() != 2 or (clouds and points.shape[-1] != clouds[0].shape[-1]):
            expected = f" with D = {clouds[0].shape[-1]}" if clouds else ""
            raise ValueError(f"{name}, item {index}: expected a cloud (N, D){expected}, got {tuple(points.shape)}")
        clouds.append(as_exact(points.detach(), dtype, f"{name}, item {index}"))
    if not clouds:
        raise ValueError(f"{name}: expected at least one cloud, got an empty {type(data).__name__}")
    if labels and len(labels) != len(clouds):
        raise ValueError(f"{name}: {len(labels)} of {len(clouds)} items have a label: expected all or none")
    if any(cloud.dtype == torch.float64 for cloud in clouds):
        clouds = [cloud.double() for cloud in clouds]
    if len({len(cloud) for cloud in clouds}) == 1:
        found: Clouds | RaggedClouds = Clouds(torch.stack(clouds))
    else:
        found = RaggedClouds.of(clouds)
    return found, torch.tensor(labels) if labels else None
