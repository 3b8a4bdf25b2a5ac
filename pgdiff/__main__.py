"""`python -m pgdiff`."""

import sys

from pgdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
