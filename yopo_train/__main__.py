"""``python -m yopo_train`` is the command ``yopo-train``."""

import sys

from yopo_train.cli import main

if __name__ == "__main__":
    sys.exit(main())
