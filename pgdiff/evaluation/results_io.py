"""Loading of saved evaluations."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation.results import FORMAT, GOAL_FROM_RESET, Evaluation

_NAME = "evaluation.json"


def load_evaluation(path: str | os.PathLike[str]) -> Evaluation:
    """Load an evaluation that `Evaluation.to_json` saved. Trajectories are not saved.

    Args:
        path: the JSON file, or the folder that holds `evaluation.json`.

    Raises:
        PgdiffError: if the file is missing, damaged or of a newer format; the message names the
            field.

    Example:
        >>> from tempfile import mkdtemp
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import evaluate, load_evaluation
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> make_env = lambda: gym.make("CartPole-v1")
        >>> result = evaluate(idle, make_env, episodes=5, progress=False)
        >>> loaded = load_evaluation(result.to_json(f"{mkdtemp()}/evaluation.json"))
        >>> (loaded.returns == result.returns).all()
        np.True_
    """
    file = Path(path) / _NAME if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise PgdiffError(
            f"`path` must be a saved evaluation or a folder with one. Got '{path}' ({error})."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"it is not valid JSON: {error}") from error
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
        settings=_settings(file, content),
        machine=_object(file, content, "machine"),
        scores_if_stay=rows.numbers("scores_if_stay", optional=True),
        first_touch=rows.numbers("first_touch", optional=True, gaps=True),
        notes=_texts(file, content, "notes"),
    )


def load_evaluations(path: str | os.PathLike[str]) -> list[Evaluation]:
    """Load one saved evaluation, or the evaluations of several runs in the folders below `path`.

    Args:
        path: as in `load_evaluation`, or a folder whose subfolders each hold an `evaluation.json`.

    Raises:
        PgdiffError: as `load_evaluation`.

    Example:
        >>> from tempfile import mkdtemp
        >>> import gymnasium as gym
        >>> from types import SimpleNamespace
        >>> from pgdiff.evaluation import evaluate, load_evaluations
        >>> idle = SimpleNamespace(predict=lambda obs, state, **_: (np.zeros(len(obs), int), state))
        >>> folder, make_env = Path(mkdtemp()), lambda: gym.make("CartPole-v1")
        >>> for seed in (0, 5):
        ...     result = evaluate(idle, make_env, episodes=5, seed=seed, progress=False)
        ...     _ = result.to_json(folder / f"run_{seed}" / "evaluation.json")
        >>> len(load_evaluations(folder))
        2
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
        """Return one finite number per episode; with `gaps`, null becomes NaN."""
        if optional and self.fields.get(name) is None:
            return None
        values = self._listed(name)
        for row, value in enumerate(values):
            if gaps and value is None:
                continue
            self._check_number(value, f"{name}[{row}]")
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def flags(self, name: str) -> np.ndarray | None:
        """Return one Boolean per episode."""
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
        """Return one vector of finite numbers per episode, all of the same length."""
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
    """Return seconds and plans; format 0 has `plans_per_second` instead of `agent_seconds`."""
    speed = {key: content.get(key) for key in ("seconds", "agent_seconds", "plans")}
    rate = content.get("plans_per_second")
    if speed["agent_seconds"] is None and speed["plans"] and rate:
        speed["agent_seconds"] = speed["plans"] / rate
    for key, value in speed.items():
        if value is None and key != "seconds":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise _damaged(file, f"`{key}` must be a number of at least 0, not {value!r:.40}")
    speed["agent_seconds"] = speed["agent_seconds"] or 0.0
    return speed


def _object(file: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict):
        raise _damaged(file, f"`{name}` must be an object")
    if name == "settings" and not isinstance(value.get("seed"), int | None):
        raise _damaged(file, f"`settings.seed` must be an integer, not {value['seed']!r:.40}")
    return value


def _settings(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, in which `goal` has its present wording."""
    settings = _object(file, content, "settings")
    return settings if settings.get("goal") is None else settings | {"goal": GOAL_FROM_RESET}


def _texts(file: Path, content: dict[str, Any], name: str) -> tuple[str, ...]:
    """Return a list of strings; empty if the file does not have it."""
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
    raise ValueError(f"{word} is not a number")


def _damaged(file: Path, reason: str) -> PgdiffError:
    return PgdiffError(
        f"'{file}' is not a saved evaluation, or it is damaged: {reason}. Evaluate again, or "
        "restore a copy."
    )
