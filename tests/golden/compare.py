"""Compare two files of `make.py`, bit for bit or up to a tolerance.

python tests/golden/compare.py A.npz B.npz [--tolerance]
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from golden import ATOL, RTOL, differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs=2)
    parser.add_argument("--tolerance", action="store_true", help=f"rtol {RTOL:g}, atol {ATOL:g}")
    arguments = parser.parse_args()
    read = []
    for file in arguments.files:
        with np.load(file) as data:
            read.append({key: data[key] for key in data.files})
    names = (str(arguments.files[0]), str(arguments.files[1]))
    lines = differences(*read, tolerance=arguments.tolerance, names=names)
    print("\n".join(lines))
    print(f"{len(lines)} differences in {len(read[0])} arrays")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
