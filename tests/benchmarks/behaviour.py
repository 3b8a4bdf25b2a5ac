"""Mean return and score of the complete episodes in recordings, by part.

    python tests/benchmarks/behaviour.py FILE... [--task hopper-v5]

Intervals are percentile bootstraps over episodes. The task, which gives the reference scores, is by
default the task that the file names. A file without a mix of `pgdiff collect` is one part, whose
last episode counts only if the environment ended it or it is as long as the longest episode.
"""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np

from pgdiff.evaluation import interval
from pgdiff.workflows.recording.collect_mix import episode_returns
from pgdiff_envs import REFERENCE_SCORES, normalized_score


def read(path: Path) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """Return the environment's id, and the name and returns of every part."""
    with h5py.File(path) as file:
        rewards, terminals = file["rewards"][:], file["terminals"][:].astype(bool)
        timeouts = (
            file["timeouts"][:].astype(bool) if "timeouts" in file else np.zeros_like(terminals)
        )
        notes = dict(file.attrs)
    ended = terminals | timeouts
    if "parts" not in notes:
        lengths = np.diff(np.flatnonzero(ended), prepend=-1)
        returns = episode_returns(rewards, ended)
        whole = len(lengths) and (
            terminals[ended][-1] or lengths[-1] == lengths[:-1].max(initial=0)
        )
        parts = [("all", returns if whole else returns[:-1])]
        return str(notes.get("env_id", "")), parts
    parts, start = [], 0
    for part in json.loads(notes["parts"]):
        rows = slice(start, start + part["rows"])
        start += part["rows"]
        name = f"{part['agent'].split(' sha256:')[0]}, noise {part['noise']:g}"
        parts.append((name, episode_returns(rewards[rows], ended[rows])[: part["episodes"]]))
    return str(notes["env_id"]), parts


def line(name: str, returns: np.ndarray, task: str) -> str:
    """Return a row of the table."""
    figures = [returns]
    if task in REFERENCE_SCORES:
        figures.append(normalized_score(task, returns))
    cells = [f"{name:40} {len(returns):8,}"]
    for values in figures if len(returns) else []:
        low, high = interval(values)
        cells.append(f"{f'{values.mean():.1f} [{low:.1f}, {high:.1f}]':>28}")
    return " ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--task", help="an id of pgdiff_envs; that of the file if left out")
    arguments = parser.parse_args()
    for path in arguments.files:
        named, parts = read(path)
        task = arguments.task or named
        print(f"{path.name} ({task or 'task unknown'})")
        print(f"{'part':40} {'episodes':>8} {'mean return [95 %]':>28} {'score [95 %]':>28}")
        if len(parts) > 1:
            parts.append(("all", np.concatenate([returns for _, returns in parts])))
        for name, returns in parts:
            print(line(name, returns, task))


if __name__ == "__main__":
    main()
