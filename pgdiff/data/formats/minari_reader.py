"""Reader of Minari's HDF5 layout, without Minari and without the recorded environment."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pgdiff.core.validation import PgdiffError
from pgdiff.data.dict_observations import GOAL, ObservationLayout
from pgdiff.data.formats.hdf5_safety import open_file
from pgdiff.data.formats.minari_checks import Fault, Survey, survey_episodes
from pgdiff.data.formats.minari_layout import MAIN, METADATA, EpisodeRows, Truncations
from pgdiff.data.formats.source import Recording
from pgdiff.data.schema import Problem

REPEATED = "pgdiff_last_observation_repeated"
"""Key of the metadata; True if the last observation of each episode repeats the previous one."""

_LARGEST_METADATA = 1 << 26


@contextmanager
def open_minari(folder: Path, problems: list[Problem]) -> Iterator[Recording]:
    """Open a data set for reading, and append its faults to `problems`.

    Args:
        folder: the `data` folder, with `main_data.hdf5` and `metadata.json`.
        problems: list that receives the faults.
    """
    metadata = _metadata(folder / METADATA, problems)
    file = None if metadata is None else open_file(folder / MAIN, problems)
    if metadata is None or file is None:
        yield Recording(ends_known=True)
        return
    with file:
        recording = Recording(ends_known=True)
        try:
            size = (folder / MAIN).stat().st_size
            recording = _recording(
                file, survey_episodes(file, size, metadata["total_episodes"]), metadata
            )
        except Fault as fault:
            problems.append(fault.problem)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            problems.append(
                Problem("file", None, f"cannot be read ({error}).", "Download the data set again.")
            )
        yield recording


def _metadata(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    fix = "Download the data set again."
    try:
        if path.stat().st_size > _LARGEST_METADATA:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        metadata = json.loads(path.read_bytes())
        count = metadata["total_episodes"]
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"its `total_episodes` is {count!r}")
        if metadata.get("data_format", "hdf5") != "hdf5":
            fix = "Write it again in Minari with data_format='hdf5'."
            raise ValueError(f"its `data_format` is {metadata['data_format']!r}, not 'hdf5'")
        for name in ("observation_space", "action_space"):
            space = metadata.get(name)
            if _has_image(json.loads(space) if isinstance(space, str) else space):
                fix = "Record numbers instead."
                raise ValueError(f"its `{name}` contains images")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(Problem("file", None, f"'{path.name}' is invalid ({error}).", fix))
        return None
    result: dict[str, Any] = metadata
    return result


def _has_image(space: Any) -> bool:
    if not isinstance(space, dict):
        return False
    below = space.get("subspaces")
    inner = list(below.values()) if isinstance(below, dict) else below or []
    image = space.get("dtype") == "uint8" and len(space.get("shape", [])) > 1
    return image or any(map(_has_image, inner))


def _recording(file: h5py.File, survey: Survey, metadata: dict[str, Any]) -> Recording:
    parts = [path for path in survey.leaves if path.startswith("observations/")]
    offsets = np.concatenate([[0], np.cumsum(survey.lengths)])
    layout = None
    if parts:
        names = {path.removeprefix("observations/").replace("/", "."): path for path in parts}
        try:
            layout = ObservationLayout.from_sizes(
                {n: survey.leaves[p].size for n, p in names.items()}
            )
        except PgdiffError as error:
            raise Fault(
                "observations", None, f"has invalid fields: {error}", "Record other fields."
            ) from error
        parts = [names[name] for name, _ in layout.fields]

    def rows(*paths: str, shift: int = 0) -> EpisodeRows:
        return EpisodeRows(file, [survey.leaves[path] for path in paths], offsets, shift)

    terminals = rows("terminations")
    fields: dict[str, Any] = {
        "observations": rows(*(parts or ["observations"])),
        "actions": rows("actions"),
        "rewards": rows("rewards"),
        "terminals": terminals,
        "timeouts": Truncations(rows("truncations"), terminals),
    }
    fields |= {f"infos/{name}": rows(f"infos/{name}") for name in survey.infos}
    # A repeated observation is only a placeholder for an unknown one: drop it.
    complete = not survey.short and not metadata.get(REPEATED, False)
    if complete and fields["observations"].shape[1:]:
        fields["next_observations"] = rows(*(parts or ["observations"]), shift=1)
    if layout is not None and layout.goal is not None:
        fields["infos/goal"] = rows(f"observations/{GOAL}")
        fields.pop("infos/next_goal", None)
        if complete:
            fields["infos/next_goal"] = rows(f"observations/{GOAL}", shift=1)
    return Recording(fields, layout, ends_known=True)
