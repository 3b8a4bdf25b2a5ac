"""Reading a saved evaluation."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.evaluation.results import FORMAT, Evaluation
from pgdiff.validation import PgdiffError

_NAME = "evaluation.json"


def load_evaluation(path: str | os.PathLike[str]) -> Evaluation:
    """Read what `Evaluation.to_json` wrote; its trajectories are not in the file.

    Args:
        path: the JSON file, or the folder in which `evaluation.json` is.

    Raises:
        PgdiffError: the file is absent, damaged, or of a newer format; the message names the field.
    """
    file = Path(path) / _NAME if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise PgdiffError(
            f"`path` must be a saved evaluation, or a folder with one. Got '{path}' ({error})."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"it is no JSON: {error}") from error
    number = content.get("format", 0) if isinstance(content, dict) else None
    if not isinstance(number, int) or not isinstance(content.get("per_episode"), dict):
        raise _damaged(file, "`per_episode` must be an object")
    if number > FORMAT:
        raise PgdiffError(
            f"'{file}' has format {number}; this pgdiff reads evaluations up to format {FORMAT}. "
            "Install a newer pgdiff."
        )
    rows = _Rows(file, content["per_episode"])
    returns = rows.numbers("returns")
    assert returns is not None
    return Evaluation(
        returns=returns,
        normalized_scores=rows.numbers("normalized_scores", optional=True),
        successes=rows.flags("successes"),
        steps_to_goal=rows.numbers("steps_to_goal", optional=True, gaps=True),
        goals=rows.vectors("goals"),
        lengths=_whole(file, rows.numbers("lengths")),
        trajectories=[],
        **_speed(file, content),
        settings=_object(file, content, "settings"),
        machine=_object(file, content, "machine"),
        scores_if_stay=rows.numbers("scores_if_stay", optional=True),
        first_touch=rows.numbers("first_touch", optional=True, gaps=True),
        notes=_texts(file, content, "notes"),
    )


def load_evaluations(path: str | os.PathLike[str]) -> list[Evaluation]:
    """Read one saved evaluation, or those of several training seeds in the folders below `path`.

    Args:
        path: as in `load_evaluation`, or a folder whose folders hold an `evaluation.json` each.

    Raises:
        PgdiffError: as `load_evaluation` does.
    """
    folder = Path(path)
    below = sorted(folder.glob(f"*/{_NAME}"))
    if not folder.is_dir() or (folder / _NAME).is_file() or not below:
        return [load_evaluation(path)]
    return [load_evaluation(file) for file in below]


class _Rows:
    """The fields of `per_episode`, each checked for length and type."""

    def __init__(self, file: Path, fields: dict[str, Any]) -> None:
        self.file, self.fields = file, fields
        self.count = 0
        self.count = len(self._listed("returns"))
        if self.count == 0:
            raise _damaged(file, "`per_episode.returns` must hold at least one episode")

    def numbers(
        self, name: str, *, optional: bool = False, gaps: bool = False
    ) -> np.ndarray | None:
        """One finite number an episode; with `gaps` null is NaN."""
        if optional and self.fields.get(name) is None:
            return None
        values = self._listed(name)
        for row, value in enumerate(values):
            if gaps and value is None:
                continue
            self._check_number(value, f"{name}[{row}]")
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def flags(self, name: str) -> np.ndarray | None:
        """One true or false an episode."""
        if self.fields.get(name) is None:
            return None
        values = self._listed(name)
        for row, value in enumerate(values):
            if not isinstance(value, bool):
                raise _damaged(
                    self.file, f"`per_episode.{name}[{row}]` must be true or false, not {value!r}"
                )
        return np.array(values, dtype=bool)

    def vectors(self, name: str) -> np.ndarray | None:
        """As many finite numbers for each episode."""
        if self.fields.get(name) is None:
            return None
        values = self._listed(name)
        for row, value in enumerate(values):
            if not isinstance(value, list) or len(value) != len(values[0]):
                raise _damaged(
                    self.file, f"`per_episode.{name}[{row}]` must be a list as long as the others"
                )
            for item in value:
                self._check_number(item, f"{name}[{row}]")
        return np.array(values, dtype=np.float64)

    def _listed(self, name: str) -> list[Any]:
        values = self.fields.get(name)
        if not isinstance(values, list) or (self.count and len(values) != self.count):
            wanted = f"{self.count} values" if self.count else "values"
            raise _damaged(self.file, f"`per_episode.{name}` must be a list of {wanted}")
        return values

    def _check_number(self, value: Any, name: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
            raise _damaged(self.file, f"`per_episode.{name}` must be a number, not {value!r:.40}")


def _speed(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Wall-clock seconds and plans; older files tell the agent's share by plans a second."""
    found = {key: content.get(key) for key in ("seconds", "agent_seconds", "plans")}
    rate = content.get("plans_per_second")
    if found["agent_seconds"] is None and found["plans"] and rate:
        found["agent_seconds"] = found["plans"] / rate
    for key, value in found.items():
        if value is None and key != "seconds":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise _damaged(file, f"`{key}` must be a number of at least 0, not {value!r:.40}")
    found["agent_seconds"] = found["agent_seconds"] or 0.0
    return found


def _object(file: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise _damaged(file, f"`{name}` must be an object")
    if name == "settings" and not isinstance(value.get("seed"), int | None):
        raise _damaged(file, f"`settings.seed` must be an integer, not {value['seed']!r:.40}")
    return value


def _texts(file: Path, content: dict[str, Any], name: str) -> tuple[str, ...]:
    """A list of text; empty in files from before it was stated."""
    value = content.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _damaged(file, f"`{name}` must be a list of text")
    return tuple(value)


def _whole(file: Path, values: np.ndarray | None) -> np.ndarray:
    assert values is not None
    if (values != np.round(values)).any() or (values < 1).any():
        raise _damaged(file, "`per_episode.lengths` must be integers of at least 1")
    return values.astype(np.int64)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _damaged(file: Path, reason: str) -> PgdiffError:
    return PgdiffError(
        f"'{file}' is no saved evaluation, or is damaged: {reason}. Evaluate anew, or go back to "
        "a copy."
    )
