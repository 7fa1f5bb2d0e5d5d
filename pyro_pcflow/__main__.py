"""``python -m pyro_pcflow``."""

import sys

from pyro_pcflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
