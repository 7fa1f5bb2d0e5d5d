"""Mixture of flows: several flows as one density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_pcflow.distributions.base import select_points
from pyro_pcflow.distributions.flow import FLOW_OPTIONS, PointCloudFlow
from pyro_pcflow.distributions.mixture import PointMixture
from pyro_pcflow.distributions.point_cloud import PointCloud, sample_clouds
from pyro_pcflow.ops.kmeans import kmeans
from pyro_pcflow.ops.options import check_options
from pyro_pcflow.ops.origin import find_origin
from pyro_pcflow.transforms.checks import check_points

__all__ = ["MixtureOfFlows"]

# Enough points to find regions by.
CLUSTERED = 10_000


class MixtureOfFlows(nn.Module):
    """Mixture of `K` flows whose weights come from the context: shapes of several pieces, and unsupervised parts.

    Source: Postels et al., Go with the flows: mixtures of normalizing flows for point cloud generation and
    reconstruction, 3DV 2021. Each flow has the same context; the density of a point is the exact log-sum-exp over the
    flows, weighted by a softmax of a linear map of the context, or by free weights where there is none.

    Args:
        num_flows: number of flows `K`, at least 1.
        point_dim: number of coordinates `D` of a point, at least 2.
        context_dim: size `C` of a context, 0 for none.
        **flow_options: any other option of `PointCloudFlow` but `transform`, the same for every flow; `base` is
            `"normal"` by default.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if a size or a name is out of range.

    Examples:
        >>> flows = MixtureOfFlows(4, point_dim=3, context_dim=8, num_couplings=4, hidden_dims=[16])
        >>> context, clouds = torch.randn(5, 8), torch.randn(5, 100, 3)
        >>> flows.cloud(context, num_points=100).log_prob(clouds).shape
        torch.Size([5])
        >>> flows.condition(context.unsqueeze(-2)).responsibilities(clouds).shape
        torch.Size([5, 100, 4])
    """

    def __init__(self, num_flows: int, point_dim: int = 3, context_dim: int = 0, **flow_options: Any) -> None:
        super().__init__()
        check_options(flow_options, FLOW_OPTIONS, type(self).__name__)
        if num_flows < 1:
            raise ValueError(f"num_flows must be at least 1, got {num_flows}")
        self.num_flows = num_flows
        self.point_dim = point_dim
        self.context_dim = context_dim
        flow_options = {"base": "normal", **flow_options}
        members = [PointCloudFlow(point_dim, context_dim, **flow_options) for _ in range(num_flows)]
        self.config = {**members[0].config, "num_flows": num_flows}
        self.flows = nn.ModuleList(members)
        self.weight_logits = nn.Parameter(torch.zeros(num_flows))
        self.weight_network = nn.Linear(context_dim, num_flows, bias=False) if context_dim else None
        if self.weight_network is not None:
            nn.init.zeros_(self.weight_network.weight)

    @property
    def origin(self) -> Tensor | None:
        """What is subtracted from points in float64 before all else, shape `(D,)`; None where nothing is."""
        return self._members()[0].origin

    @property
    def data_dtype(self) -> torch.dtype:
        """The data type of samples, and of the points that the flows score: float64 with an `origin`."""
        return self._members()[0].data_dtype

    @property
    def normalized(self) -> bool:
        """Whether `normalize` has set the units."""
        return all(flow.normalized for flow in self._members())

    def normalize(self, points: Tensor, mask: Tensor | None = None) -> None:
        """Set the units of every flow to those of a region of its own, found by k-means.

        Flows that start alike would all learn the whole shape; from regions of their own they become parts. A region
        of a single place, such as a stray point, has no scale: its flow takes the units of all points. The state of
        torch's generators stays as it is.

        Args:
            points: shape `(*batch, D)`, in the data's units, training points only.
            mask: booleans of shape `(*batch,)`, True at the points of a cloud; all of them by default.

        Raises:
            TypeError: if the points are not a tensor, or the mask is not boolean.
            ValueError: if the points are not finite, or too few for `K` regions, or the mask does not fit.
        """
        check_points(points, self.point_dim)
        points = select_points(points.detach(), mask)
        regions = _regions(points, self.num_flows)
        # One for all or none, or samples of some flows would be of another data type.
        origin = (
            None
            if self.weight_logits.dtype == torch.float64
            else find_origin(points, feature_dim=self._members()[0].feature_dim)
        )
        for flow, region in zip(self._members(), regions, strict=True):
            flow.normalize(region if origin is not None else region.to(self.weight_logits), origin=origin)

    def condition(self, context: Tensor | None = None) -> PointMixture:
        """Return the density of a point, given a context.

        Args:
            context: shape `(*batch, C)`; left out for flows without context.

        Returns:
            A distribution with `batch_shape (*batch,)` and `event_shape (D,)`, and with `responsibilities`.
        """
        members = [flow.condition(context) for flow in self._members()]
        return PointMixture(self._logits(context), members)

    def cloud(
        self, context: Tensor | None = None, *, num_points: int | None = None, mask: Tensor | None = None
    ) -> PointCloud:
        """Return the density of a cloud, given a context; arguments as for `PointCloudFlow.cloud`."""
        return PointCloud(self.condition(context), num_points, mask)

    def log_prob(self, points: Tensor, context: Tensor | None = None) -> Tensor:
        """The log-density of points in nats, shape `(*batch,)`; arguments as for `PointCloudFlow.log_prob`."""
        return self.condition(context).log_prob(points)

    def sample(self, num_clouds: int, num_points: int, context: Tensor | None = None) -> Tensor:
        """Sample clouds, shape `(S, N, D)`; arguments as for `PointCloudFlow.sample`."""
        return sample_clouds(self.cloud(context, num_points=num_points), num_clouds)

    def _members(self) -> Sequence[PointCloudFlow]:
        return list(self.flows)  # type: ignore[arg-type]

    def _logits(self, context: Tensor | None) -> Tensor:
        if self.weight_network is None or context is None:
            return self.weight_logits
        return self.weight_logits + self.weight_network(context)

    def extra_repr(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"{self.num_flows} flows, context_dim={self.context_dim}, {parameters:,} parameters"


def _regions(points: Tensor, count: int) -> list[Tensor]:
    if len(points) < 2 * count or not points.isfinite().all():
        raise ValueError(f"cannot find {count} regions in {len(points)} points: expected finite ones, two per region")
    some = points[:: max(1, len(points) // CLUSTERED)].cpu().double()
    _, labels = kmeans(some, count, torch.Generator().manual_seed(0))
    regions = [some[labels == label] for label in range(count)]
    # A stray point may end as a region of its own, which has no scale.
    return [region if len(region.unique(dim=0)) > 1 else some for region in regions]
