"""Run the golden entries and write their arrays.

    python tests/golden/make.py OUT.npz [--only REGEX] [--stored]

Run it on one machine before and after a change that must not change any number, then compare both
files with `compare.py`. `--stored` writes the few values that `test_golden.py` compares with.
"""

import argparse
import os
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before any import that reads it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="run only entries whose names match")
    parser.add_argument(
        "--stored", action="store_true", help="write a few values, for other machines"
    )
    arguments = parser.parse_args()
    import numpy as np
    from golden import one_thread, reduced, run, store

    with one_thread():
        arrays, failed = run(only=arguments.only, say=lambda line: print(line, flush=True))
    if arguments.stored:
        store(reduced(arrays), arguments.out)
    else:
        with arguments.out.open("wb") as file:
            np.savez(file, **arrays)
    print(f"{len(arrays)} arrays in {arguments.out}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
