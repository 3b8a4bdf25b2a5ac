"""Run the golden entries and write their arrays.

    python tests/golden/make.py OUT.npz [--only REGEX] [--stored]

Before and after a change that is to change no number: make both files on one machine, then
`compare.py` them. `--stored` writes the few values that `test_golden.py` compares with.
"""

import argparse
import os
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before anything is imported that asks for it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="entries whose names match this alone")
    parser.add_argument("--stored", action="store_true", help="few values, for other machines")
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
