from __future__ import annotations

import pytest

from pyro_pcflow.ops.backends import BACKENDS, check_backend


def test_a_name_that_is_none_is_told_from_those_that_are():
    assert [check_backend(name) for name in BACKENDS] == list(BACKENDS)
    with pytest.raises(ValueError, match="one of auto, plain, tiled, fused, triton, got 'fast'"):
        check_backend("fast")
