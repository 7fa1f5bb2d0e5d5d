from __future__ import annotations

import pyro
import pytest


@pytest.fixture(autouse=True)
def _fresh_store():
    pyro.clear_param_store()
