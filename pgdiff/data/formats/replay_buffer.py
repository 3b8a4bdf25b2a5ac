"""Conversion between Stable-Baselines3's replay buffers and episodes."""

from typing import Any

import numpy as np

from pgdiff.core.validation import PgdiffError, require
from pgdiff.data.dict_observations import ObservationLayout
from pgdiff.data.episodes import Episodes, convert, fill_next_observations

_MODULE = "stable_baselines3.common.buffers"


_ROUNDING = 1e-5
"""Tolerance of scaled actions outside [-1, 1]."""


def from_replay_buffer(
    buffer: Any,
    *,
    scaled_actions: bool = True,
    join_continuous: bool = False,
    repair: bool = False,
) -> Episodes:
    """Convert a `ReplayBuffer` or `DictReplayBuffer` to episodes, oldest row first.

    The rows of the first of `n_envs` environments come first, then those of the second, and so on;
    an unfinished episode before the next environment's rows ends with a timeout. A done with the
    mark of a time limit is a timeout, any other done a terminal. A buffer with
    `handle_timeout_termination=False` stores no time limits, so all its ends are terminals. With
    `optimize_memory_usage` the observation after an episode's end is overwritten: the result has no
    `next_observations`, and the oldest row of a full buffer is dropped.

    Args:
        buffer: the buffer; Dict observations are flattened, see `ObservationLayout`.
        scaled_actions: True if the buffer contains actions scaled to [-1, 1], as stored by
            Stable-Baselines3's agents; they are scaled back to the action space. False if it
            contains actions in the units of the environment.
        join_continuous: see `load_episodes`.
        repair: see `load_episodes`.

    Raises:
        PgdiffError: if `buffer` is not a replay buffer or is empty, a space is not a flat Box (or a
            Dict of observations), scaled actions are outside [-1, 1], or a check of values fails.

    Example:
        >>> from pgdiff.data import from_replay_buffer, to_replay_buffer
        >>> from pgdiff.testing import example_episodes
        >>> buffer = to_replay_buffer(example_episodes(episodes=3), device="cpu")
        >>> len(from_replay_buffer(buffer))
        3
    """
    buffers = require(_MODULE, extra="sb3")
    if not isinstance(buffer, buffers.ReplayBuffer):
        raise PgdiffError(
            "`source` must be a path, a Minari id or a Stable-Baselines3 ReplayBuffer. "
            f"Got {type(buffer).__name__}."
        )
    low, high = _bounds(buffer.action_space, scaled_actions)
    order = _row_order(buffer)
    if len(order) == 0:
        raise PgdiffError("`source` must have at least one row. Got an empty replay buffer.")

    def rows(values: np.ndarray) -> np.ndarray:
        """Reshape `[size, envs, ...]` to `[rows, ...]`, one environment after the other."""
        result: np.ndarray = values[order].swapaxes(0, 1).reshape(-1, *values.shape[2:])
        return result

    dones, limits = rows(buffer.dones), rows(buffer.timeouts)
    last = np.arange(1, buffer.n_envs) * len(order) - 1
    limits[last] = np.where(dones[last] == 0, 1, limits[last])
    arrays: dict[str, np.ndarray] = {
        "actions": rows(buffer.actions),
        "rewards": rows(buffer.rewards),
        "terminals": np.where(limits == 0, dones, 0),
        "timeouts": limits,
    }
    if low is not None:
        scaled = arrays["actions"].astype(np.float64)
        _check_scaled(scaled)
        arrays["actions"] = low + 0.5 * (scaled + 1.0) * (high - low)
    layout = _layout(buffer.observation_space)
    stores = {"observations": buffer.observations}
    if not buffer.optimize_memory_usage:
        stores["next_observations"] = buffer.next_observations
    for name, goal_name in (
        ("observations", "infos/goal"),
        ("next_observations", "infos/next_goal"),
    ):
        if name not in stores:
            continue
        if layout is None:
            arrays[name] = rows(stores[name])
            continue
        fields = {key: rows(values) for key, values in stores[name].items()}
        arrays[name], goal = layout.flatten(fields)
        if goal is not None:
            arrays[goal_name] = goal
    clean = convert(arrays, need_end=False)
    return Episodes._from_clean(
        clean, layout=layout, join_continuous=join_continuous, repair=repair
    )


def to_replay_buffer(
    episodes: Episodes,
    *,
    observation_space: Any = None,
    action_space: Any = None,
    scaled_actions: bool = True,
    device: str = "auto",
) -> Any:
    """Convert episodes to a full `ReplayBuffer` of one environment.

    Observations with a layout give a `DictReplayBuffer`. Without `next_observations`, the
    observation of the next row is used; the last row of a cut-off episode is dropped, because its
    value would be learned from its unknown successor. After a terminal, where the successor is not
    used, the row's own observation is repeated. A goal without a known successor is repeated.
    Stable-Baselines3 cannot mark a row as both terminal and timeout; it becomes a terminal.

    Args:
        episodes: the recording.
        observation_space: by default unbounded float32 Boxes.
        action_space: a Box with finite bounds. It must contain the recorded actions if they are
            scaled; the default [-1, 1] must always contain them.
        scaled_actions: if True, scale the actions to [-1, 1], as expected by Stable-Baselines3's
            agents.
        device: device of the buffer's samples.

    Raises:
        PgdiffError: if a space does not fit, or no row has a known successor.

    Example:
        >>> from pgdiff.data import to_replay_buffer
        >>> from pgdiff.testing import example_episodes
        >>> to_replay_buffer(example_episodes(episodes=2, steps=10), device="cpu").size()
        20
    """
    buffers = require(_MODULE, extra="sb3")
    from gymnasium import spaces

    layout, fields = episodes.observation_layout, fill_next_observations(episodes.fields())
    if not len(fields["rewards"]):
        raise PgdiffError(
            "`episodes` must have a row whose next observation is known. Got "
            f"{len(episodes)} cut-off episodes of one row each. Record `next_observations`."
        )
    features, size = episodes.observations.shape[1], episodes.actions.shape[1]
    if observation_space is None:
        flat = spaces.Box(-np.inf, np.inf, (features,), np.float32)
        observation_space = flat if layout is None else layout.space()
    fits = (
        _layout(observation_space) == layout
        if layout is not None or isinstance(observation_space, spaces.Dict)
        else observation_space.shape == (features,)
    )
    if not fits:
        raise PgdiffError(
            f"`observation_space` must have the recording's {features} features"
            f"{'' if layout is None else ' and layout'}. Got {observation_space}."
        )
    if layout is not None and any("." in name for name, _ in layout.fields):
        raise PgdiffError(
            "`episodes` must have flat observations or a Dict of arrays, because Stable-Baselines3 "
            f"does not support nested Dicts. Got {[key for key, _ in layout.fields]}."
        )
    if action_space is None:
        action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        largest = float(np.abs(fields["actions"]).max())
        if largest > 1.0:
            raise PgdiffError(
                f"`action_space` must be given, because actions reach {largest:g} in magnitude. "
                "Got None, which means [-1, 1]."
            )
    if getattr(action_space, "shape", None) != (size,):
        raise PgdiffError(f"`action_space` must be a Box of {size} numbers. Got {action_space}.")
    low, high = _bounds(action_space, scaled_actions)
    kind = buffers.ReplayBuffer if layout is None else buffers.DictReplayBuffer
    rows = len(fields["rewards"])
    buffer = kind(rows, observation_space, action_space, device=device)

    _fill(buffer.observations, fields["observations"], fields.get("infos/goal"), layout)
    next_goal = None
    if layout is not None and layout.goal is not None:
        next_goal = _next_goals(fields)
    _fill(buffer.next_observations, fields["next_observations"], next_goal, layout)
    actions: np.ndarray = fields["actions"]
    if low is not None:
        actions = 2.0 * ((actions.astype(np.float64) - low) / (high - low)) - 1.0
        _check_inside(actions, action_space)
    buffer.actions[:, 0] = actions
    buffer.rewards[:, 0] = fields["rewards"]
    buffer.dones[:, 0] = fields["terminals"] | fields["timeouts"]
    buffer.timeouts[:, 0] = fields["timeouts"] & ~fields["terminals"]
    buffer.pos, buffer.full = 0, True
    return buffer


def _row_order(buffer: Any) -> np.ndarray:
    """Return the buffer's row numbers from the oldest to the newest."""
    if not buffer.full:
        return np.arange(buffer.pos)
    order: np.ndarray = (np.arange(buffer.buffer_size) + buffer.pos) % buffer.buffer_size
    return order[1:] if buffer.optimize_memory_usage else order


def _layout(space: Any) -> ObservationLayout | None:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return ObservationLayout.from_space(space)
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise PgdiffError(f"Observations must have a flat Box or a Dict of Boxes. Got {space}.")
    return None


def _bounds(space: Any, scaled: bool) -> tuple[Any, Any]:
    """Return the bounds for scaling actions, or None if no scaling is needed."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise PgdiffError(f"Actions must have a flat Box. Got {space}.")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not scaled or ((low == -1.0) & (high == 1.0)).all():
        return None, None
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise PgdiffError(
            f"`action_space` must have finite bounds for scaling. Got {space}; pass "
            "scaled_actions=False for actions in the units of the environment."
        )
    return low, high


def _next_goals(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Return the goals of the next observations; an unknown last goal repeats the row's goal."""
    if "infos/next_goal" in fields:
        return fields["infos/next_goal"]
    goals, ends = fields["infos/goal"], fields["terminals"] | fields["timeouts"]
    after: np.ndarray = np.concatenate([goals[1:], goals[-1:]])
    after[ends] = goals[ends]
    return after


def _check_scaled(actions: np.ndarray) -> None:
    """Raise if actions, in the order of the buffer's rows, are not scaled to [-1, 1]."""
    row = _first_outside(actions)
    if row is not None:
        raise PgdiffError(
            f"`actions`, row {row}: must lie in [-1, 1], the range of actions that "
            f"Stable-Baselines3's agents store. Got {actions[row].tolist()}. If the buffer has "
            "actions in the units of the environment, convert it with "
            "from_replay_buffer(buffer, scaled_actions=False)."
        )


def _check_inside(scaled: np.ndarray, space: Any) -> None:
    row = _first_outside(scaled)
    if row is not None:
        raise PgdiffError(
            f"`action_space` must contain the recorded actions to scale them to [-1, 1]. Got "
            f"{space} and an action outside it in row {row}. Pass a wider space or "
            "scaled_actions=False."
        )


def _first_outside(scaled: np.ndarray) -> int | None:
    rows = np.flatnonzero((np.abs(scaled) > 1.0 + _ROUNDING).any(axis=1))
    return int(rows[0]) if len(rows) else None


def _fill(
    target: Any, values: np.ndarray, goal: np.ndarray | None, layout: ObservationLayout | None
) -> None:
    if layout is None:
        target[:, 0] = values
        return
    for key, column in layout.unflatten(values, goal).items():
        target[key][:, 0] = column.reshape(target[key][:, 0].shape)
