"""A plugin of pytest that hides `pyro_pcflow.kernels`, as if a package had been built without it."""

from __future__ import annotations

import sys

HIDDEN = "pyro_pcflow.kernels"


class Hide:
    """A finder of modules that finds none of the kernels, and lets no other finder look for them."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == HIDDEN or name.startswith(f"{HIDDEN}."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=HIDDEN)


def pytest_configure():
    """Hide the kernels for as long as the process lives."""
    assert HIDDEN not in sys.modules
    sys.meta_path.insert(0, Hide)
