"""Coupling layers and stacks of them, as Pyro transforms; each class has a lower-case helper beside it."""

from pyro_pcflow.transforms.actnorm import ActNorm, act_norm
from pyro_pcflow.transforms.base import (
    ConditionalPointTransform,
    ConditionedPointTransform,
    PointTransform,
)
from pyro_pcflow.transforms.coupling import (
    ConditionalPointCoupling,
    PointCoupling,
    conditional_point_coupling,
    point_coupling,
)
from pyro_pcflow.transforms.elementwise import Additive, Affine, CubicRational, Elementwise, RationalQuadraticSpline
from pyro_pcflow.transforms.lu_linear import LULinear, lu_linear
from pyro_pcflow.transforms.masks import coupling_masks
from pyro_pcflow.transforms.named_couplings import (
    additive_point_coupling,
    affine_point_coupling,
    conditional_additive_point_coupling,
    conditional_affine_point_coupling,
    conditional_cubic_point_coupling,
    conditional_spline_point_coupling,
    cubic_point_coupling,
    spline_point_coupling,
)
from pyro_pcflow.transforms.similarity import (
    Similarity,
    rotation_from_vector,
    rotation_matrix,
    rotation_vector,
    similarity,
)
from pyro_pcflow.transforms.stack import ConditionalCouplingStack, CouplingStack, coupling_stack
from pyro_pcflow.transforms.standardize import Standardize, standardize

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "ConditionalCouplingStack",
    "ConditionalPointCoupling",
    "ConditionalPointTransform",
    "ConditionedPointTransform",
    "CouplingStack",
    "CubicRational",
    "Elementwise",
    "LULinear",
    "PointCoupling",
    "PointTransform",
    "RationalQuadraticSpline",
    "Similarity",
    "Standardize",
    "act_norm",
    "additive_point_coupling",
    "affine_point_coupling",
    "conditional_additive_point_coupling",
    "conditional_affine_point_coupling",
    "conditional_cubic_point_coupling",
    "conditional_point_coupling",
    "conditional_spline_point_coupling",
    "coupling_masks",
    "coupling_stack",
    "cubic_point_coupling",
    "lu_linear",
    "point_coupling",
    "rotation_from_vector",
    "rotation_matrix",
    "rotation_vector",
    "similarity",
    "spline_point_coupling",
    "standardize",
]
