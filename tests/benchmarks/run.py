"""Speed of recording, loading, training and planning. Printed, never asserted.

python tests/benchmarks/run.py [--quick]

Figures hold for the machine and load that the first lines name.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from speed_of_data import loading, recording
from speed_of_planning import planning
from speed_of_training import training
from timing import Row, table

from pgdiff.data import load_episodes
from pgdiff.evaluation.results import machine


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print a table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seconds in all, for a first look")
    parser.add_argument("--data", type=Path, help="a recording to load and train on")
    arguments = parser.parse_args(argv)
    quick: bool = arguments.quick
    print(machine_line())
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "recorded.hdf5"
        rows = recording(recorded, steps=2_000 if quick else 100_000)
        source = recorded if arguments.data is None else arguments.data
        episodes = load_episodes(source, cache_dir=folder)
        print(f"loading and training on {episodes.steps:,} rows")
        rows += loading(episodes, batches=20 if quick else 2_000)
        model, model_rows = training(episodes, steps=3 if quick else 60, repeats=2 if quick else 5)
        rows += model_rows
        rows += planning(model, episodes, repeats=3 if quick else 20)
        del episodes  # its arrays are mapped from the temporary folder
    print(table(rows))
    return rows


def machine_line() -> str:
    """Return the machine, versions and load, on which the figures depend."""
    about = machine()
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    threads = f"{torch.get_num_threads()} threads"
    return (
        f"{about['cores']} cores, {threads}, torch {about['torch']}, Python {about['python']}, "
        f"{about['system']}{load}"
    )


if __name__ == "__main__":
    main()
