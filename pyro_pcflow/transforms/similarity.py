"""Similarity transforms: rotation, scale and translation of points, the pose of a rigid object."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_pcflow.ops.tracing import is_traced
from pyro_pcflow.transforms.base import Bijection
from pyro_pcflow.transforms.checks import check_point_shape

__all__ = ["Similarity", "rotation_from_vector", "rotation_matrix", "rotation_vector", "similarity"]

# A rotation that was computed in float32 is orthogonal to about this much.
ORTHOGONAL = 1e-3


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """The rotation that a vector of any positive length stands for.

    Two numbers `(a, b)` are the rotation of the plane by the angle of `a + ib`. Four numbers are a quaternion
    `(w, x, y, z)`, which is divided by its length (Shoemake, Animating rotation with quaternion curves, SIGGRAPH
    1985, with the division of the homogeneous form). The map is smooth wherever the length is not zero, and a
    vector of independent standard normals gives a rotation that is uniform over the group.

    Args:
        quaternion: shape `(*batch, 2)` or `(*batch, 4)`.

    Returns:
        Shape `(*batch, 2, 2)` or `(*batch, 3, 3)`.

    Raises:
        ValueError: if the last dimension is neither 2 nor 4.

    Examples:
        >>> rotation_matrix(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
        >>> rotation_matrix(torch.randn(5, 4)).shape
        torch.Size([5, 3, 3])
    """
    if quaternion.dim() < 1 or quaternion.shape[-1] not in (2, 4):
        raise ValueError(
            "expected 2 numbers for a rotation of the plane or a quaternion of 4 for one of space, got a tensor of "
            f"shape {tuple(quaternion.shape)}"
        )
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    if quaternion.shape[-1] == 2:
        a, b = quaternion.unbind(-1)
        rows = [a, -b, b, a]
    else:
        w, x, y, z = quaternion.unbind(-1)
        rows = [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ]
    dim = 2 if quaternion.shape[-1] == 2 else 3
    return torch.stack(rows, -1).unflatten(-1, (dim, dim))


def rotation_from_vector(vector: Tensor) -> Tensor:
    """The rotation about a vector by its length in radians: the exponential map of the rotation group (Rodrigues).

    Args:
        vector: axis times angle, shape `(*batch, 3)`; gradients are finite at zero, too.

    Returns:
        Shape `(*batch, 3, 3)`.

    Raises:
        ValueError: if the last dimension is not 3.

    Examples:
        >>> quarter = rotation_from_vector(torch.tensor([0.0, 0.0, torch.pi / 2]))
        >>> (quarter @ torch.tensor([1.0, 0.0, 0.0])).round(decimals=6).abs().tolist()
        [0.0, 1.0, 0.0]
    """
    if vector.dim() < 1 or vector.shape[-1] != 3:
        raise ValueError(f"expected a rotation vector of 3 numbers, got a tensor of shape {tuple(vector.shape)}")
    # The square root of zero has no gradient. The quaternion is divided by its length, so that no angle changes by more
    # than rounding.
    half = 0.5 * (vector.square().sum(-1, keepdim=True) + torch.finfo(vector.dtype).eps).sqrt()
    return rotation_matrix(torch.cat([half.cos(), 0.5 * torch.sinc(half / torch.pi) * vector], -1))


def rotation_vector(rotation: Tensor) -> Tensor:
    """The axis of a rotation times its angle, between 0 and pi radians: the logarithm of the rotation group.

    The quaternion is read off whichever of its four numbers is largest, so that no digits are lost near half a turn
    (Shepperd, Quaternion from rotation matrix, Journal of Guidance and Control 1978). The length of
    `rotation_vector(a.mT @ b)` is the angle between two rotations.

    Args:
        rotation: orthogonal with determinant 1, shape `(*batch, 3, 3)`.

    Returns:
        Shape `(*batch, 3)`.

    Raises:
        ValueError: if the shape does not fit.

    Examples:
        >>> rotation_vector(rotation_from_vector(torch.tensor([0.1, -0.2, 3.0]))).round(decimals=4).tolist()
        [0.10000000149011612, -0.20000000298023224, 3.0]
    """
    if rotation.shape[-2:] != (3, 3):
        raise ValueError(f"expected rotations of shape (*batch, 3, 3), got {tuple(rotation.shape)}")
    a, b, c = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    odd = rotation - rotation.mT
    even = rotation + rotation.mT
    x, y, z = odd[..., 2, 1], odd[..., 0, 2], odd[..., 1, 0]
    xy, xz, yz = even[..., 0, 1], even[..., 0, 2], even[..., 1, 2]
    # Four times the products of the quaternion's numbers with each of them.
    products = torch.stack(
        [1 + a + b + c, x, y, z, x, 1 + a - b - c, xy, xz, y, xy, 1 - a + b - c, yz, z, xz, yz, 1 - a - b + c], -1
    ).unflatten(-1, (4, 4))
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = products.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    cosine, axis = quaternion.split([1, 3], -1)
    square = axis.square().sum(-1, keepdim=True)
    # Of a small angle the first terms of its series, since the square root of zero has no gradient.
    small = square < torch.finfo(square.dtype).eps ** 0.5
    sine = torch.where(small, 1.0, square).sqrt()
    series = 2 / cosine - 2 * square / (3 * cosine**3)
    return torch.where(small, series, 2 * torch.atan2(sine, cosine) / sine) * axis


class Similarity(Bijection):
    """A similarity transform `y = scale * R x + translation`: an object's own frame to that of a scan.

    It has no parameters of its own: rotation, translation and scale are given, each with a batch shape, and may
    carry gradients. So a pose is a latent like any other.

    Args:
        rotation: orthogonal, shape `(*batch, D, D)`.
        translation: shape `(*batch, D)`; none by default.
        scale: positive, shape `(*batch,)` or a number; 1 by default.

    Raises:
        ValueError: if a shape does not fit, the rotation is not orthogonal or the scale is not positive.

    Examples:
        >>> import pyro.distributions as dist
        >>> pose = Similarity(rotation_matrix(torch.randn(5, 4)), translation=torch.tensor([0.0, 0.0, 1.0]), scale=2.0)
        >>> point = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> dist.TransformedDistribution(point, [pose]).batch_shape
        torch.Size([5])
    """

    @property
    def is_affine(self) -> bool:
        """True: it carries a Gaussian to a Gaussian."""
        return True

    def __init__(
        self, rotation: Tensor, translation: Tensor | None = None, scale: Tensor | float | None = None
    ) -> None:
        super().__init__()
        if rotation.dim() < 2 or rotation.shape[-1] != rotation.shape[-2]:
            raise ValueError(f"expected a rotation of shape (*batch, D, D), got {tuple(rotation.shape)}")
        self.point_dim = rotation.shape[-1]
        self.rotation = rotation
        self.translation = rotation.new_zeros(self.point_dim) if translation is None else translation
        self.scale = torch.as_tensor(1.0 if scale is None else scale, dtype=rotation.dtype, device=rotation.device)
        check_point_shape(self.translation.shape, self.point_dim)
        try:
            self.batch_shape = torch.broadcast_shapes(
                rotation.shape[:-2], self.translation.shape[:-1], self.scale.shape
            )
        except RuntimeError as error:
            raise ValueError(
                f"a rotation of shape {tuple(rotation.shape)}, a translation of shape {tuple(self.translation.shape)} "
                f"and a scale of shape {tuple(self.scale.shape)} do not broadcast: expected (*batch, D, D), "
                "(*batch, D) and (*batch,)"
            ) from error
        # Samplers switch validation off: a step that went too far is then a divergence and not an error.
        if Distribution._validate_args and not is_traced(rotation):
            _check_values(rotation.detach(), self.scale.detach())

    def transform_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.scale.unsqueeze(-1)
        y = scale * (self.rotation * x.unsqueeze(-2)).sum(-1) + self.translation
        return y, self._log_det().expand(y.shape[:-1])

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        centred = (y - self.translation) / self.scale.unsqueeze(-1)
        x = (self.rotation.mT * centred.unsqueeze(-2)).sum(-1)
        return x, -self._log_det().expand(x.shape[:-1])

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the image of points of `shape`: the batch broadcasts with that of the pose."""
        check_point_shape(shape, self.point_dim)
        return torch.Size((*torch.broadcast_shapes(shape[:-1], self.batch_shape), self.point_dim))

    inverse_shape = forward_shape

    def _log_det(self) -> Tensor:
        return self.point_dim * self.scale.log()

    def _dependencies(self) -> list[Tensor]:
        return [self.rotation, self.translation, self.scale]

    def __repr__(self) -> str:
        return f"Similarity(point_dim={self.point_dim}, batch_shape={tuple(self.batch_shape)})"


def similarity(
    quaternion: Tensor, translation: Tensor | None = None, scale: Tensor | float | None = None
) -> Similarity:
    """Make a `Similarity` from the vector that stands for its rotation, see `rotation_matrix`.

    Args:
        quaternion: shape `(*batch, 2)` in two dimensions, `(*batch, 4)` in three.
        translation: shape `(*batch, D)`, in the data's units; none by default.
        scale: a positive factor of shape `(*batch,)`, or a number; 1 by default.

    Examples:
        >>> similarity(torch.tensor([0.0, 1.0]), scale=3.0)(torch.tensor([1.0, 0.0])).tolist()
        [0.0, 3.0]
    """
    return Similarity(rotation_matrix(quaternion), translation, scale)


def _check_values(rotation: Tensor, scale: Tensor) -> None:
    error = (rotation @ rotation.mT - torch.eye(rotation.shape[-1]).to(rotation)).abs()
    if not (error <= ORTHOGONAL).all():
        raise ValueError(
            f"expected an orthogonal rotation, but R R^T differs from the identity by {error.max().item():.3g}: "
            "rotation_matrix(quaternion) makes one from any vector"
        )
    if not (scale > 0).all():
        raise ValueError(f"expected a positive scale, got {scale.min().item():.3g}")
