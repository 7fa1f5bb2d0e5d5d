"""Triton kernels compiled, but not run, for GPUs that need not be here."""

from __future__ import annotations

import itertools

import pytest

from pyro_pcflow.kernels.gpu import launch

needs_triton = pytest.mark.skipif(launch.INTERPRETED or not launch.TRITON, reason="needs Triton, and to compile")
FIRST, *OTHERS = itertools.product((80, 90), launch.TILES)
targets = pytest.mark.parametrize(
    ("capability", "tile"), [FIRST, *(pytest.param(*pair, marks=pytest.mark.exhaustive) for pair in OTHERS)]
)


def assert_it_compiles_and_fits(kernel, options, capability, tile):
    """As a kernel of float32 that needs no more shared memory than every block has, and no tensor cores."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {"TILE": tile, "ROWS": launch.PRODUCT_ROWS[-1]}
    signature = dict.fromkeys(kernel.arg_names, "*fp32") | {"table": "*i32"}
    signature |= dict.fromkeys(kernel.arg_names[kernel.arg_names.index("scratch") + 1 :], "i32")
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(n),): value for n, value in constants.items()})
    result = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert len(result.asm["cubin"]) > 0
    assert result.metadata.shared <= 48 * 1024
    # Products on tensor cores would round their factors.
    assert "mma" not in result.asm["ptx"]
