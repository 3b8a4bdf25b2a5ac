"""Stable-Baselines3's replay buffers to episodes and back, whole arrays at a time."""

from typing import Any

import numpy as np

from pgdiff.data.episodes import Episodes, convert
from pgdiff.data.joined import with_successors
from pgdiff.data.observation_layout import ObservationLayout
from pgdiff.validation import PgdiffError, require

_MODULE = "stable_baselines3.common.buffers"


_ROUNDING = 1e-5
"""By how much a scaled action may lie outside [-1, 1]."""


def from_replay_buffer(
    buffer: Any,
    *,
    scaled_actions: bool = True,
    join_continuous: bool = False,
    repair: bool = False,
) -> Episodes:
    """Read a `ReplayBuffer` or `DictReplayBuffer` as episodes, oldest row first.

    The rows of the first of `n_envs` environments come first, then those of the second, and so on;
    where a further environment follows, an unfinished last episode ends with a timeout. A done that
    is marked as a time limit is a timeout, any other a terminal; a buffer with
    `handle_timeout_termination=False` has not kept time limits, so all its ends are terminals. With
    `optimize_memory_usage` the observation after an episode's end was overwritten, so there are no
    `next_observations`, and a full buffer's oldest row, whose observation is gone, is left out.

    Args:
        buffer: the buffer; Dict observations are flattened, see `ObservationLayout`.
        scaled_actions: whether it holds actions scaled to [-1, 1], as Stable-Baselines3's own
            agents store them; they are scaled back to the action space. False for a buffer that
            was filled with actions as the environment takes them.
        join_continuous: see `load_episodes`.
        repair: see `load_episodes`.

    Raises:
        PgdiffError: no such buffer, an empty one, another space than a flat Box (or a Dict of
            observations), scaled actions outside [-1, 1], or values that the checks refuse.
    """
    buffers = require(_MODULE, extra="sb3")
    if not isinstance(buffer, buffers.ReplayBuffer):
        raise PgdiffError(
            "`source` must be a path, a Minari id or a Stable-Baselines3 ReplayBuffer. "
            f"Got {type(buffer).__name__}."
        )
    low, high = _bounds(buffer.action_space, scaled_actions)
    order = _order(buffer)
    if len(order) == 0:
        raise PgdiffError("`source` must hold at least one row. Got an empty replay buffer.")

    def rows(values: np.ndarray) -> np.ndarray:
        """`[size, envs, ...]` to `[rows, ...]`, an environment after the other."""
        taken: np.ndarray = values[order].swapaxes(0, 1).reshape(-1, *values.shape[2:])
        return taken

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
    """Make a full `ReplayBuffer` of one environment from episodes.

    Observations with a layout make a `DictReplayBuffer`. Without `next_observations` the next row's
    observation is taken; the last row of an episode that was cut off is left out, since its
    successor is unknown and its value would be learned from it. After a terminal, where a successor
    means nothing, the row's own observation is repeated. A goal whose successor is unknown stays.
    Stable-Baselines3 has no mark for a row that is both a terminal and a timeout; it becomes a
    terminal.

    Args:
        episodes: the recording.
        observation_space: by default unbounded float32 Boxes.
        action_space: a Box with finite bounds, which must hold the recorded actions if they are
            scaled; by default [-1, 1], which must hold them in any case.
        scaled_actions: whether to scale the actions to [-1, 1], as Stable-Baselines3's own agents
            expect them.
        device: of the buffer's samples.

    Raises:
        PgdiffError: a space that does not fit, or no row whose successor is known.
    """
    buffers = require(_MODULE, extra="sb3")
    from gymnasium import spaces

    layout, fields = episodes.observation_layout, with_successors(episodes.fields())
    if not len(fields["rewards"]):
        raise PgdiffError(
            "`episodes` must hold a row whose next observation is known. Got "
            f"{len(episodes)} episodes of one row each, which were cut. Record `next_observations`."
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
            "`episodes` must have flat observations or a Dict of arrays: Stable-Baselines3 "
            f"keeps no Dict within a Dict. Got {[key for key, _ in layout.fields]}."
        )
    if action_space is None:
        action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        largest = float(np.abs(fields["actions"]).max())
        if largest > 1.0:
            raise PgdiffError(
                f"`action_space` must be given, since actions reach {largest:g} in magnitude. "
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


def _order(buffer: Any) -> np.ndarray:
    """The buffer's rows from the oldest to the newest."""
    if not buffer.full:
        return np.arange(buffer.pos)
    order: np.ndarray = (np.arange(buffer.buffer_size) + buffer.pos) % buffer.buffer_size
    return order[1:] if buffer.optimize_memory_usage else order


def _layout(space: Any) -> ObservationLayout | None:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return ObservationLayout.from_space(space)
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise PgdiffError(f"Observations must be of a flat Box or a Dict of Boxes. Got {space}.")
    return None


def _bounds(space: Any, scaled: bool) -> tuple[Any, Any]:
    """Bounds by which actions are scaled; None where there is nothing to do."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise PgdiffError(f"Actions must be of a flat Box. Got {space}.")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not scaled or ((low == -1.0) & (high == 1.0)).all():
        return None, None
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise PgdiffError(
            f"`action_space` must have finite bounds to scale by. Got {space}; pass "
            "scaled_actions=False for actions as the environment takes them."
        )
    return low, high


def _next_goals(fields: dict[str, np.ndarray]) -> np.ndarray:
    """The goals of the next observations; that of an episode's last row where none is recorded."""
    if "infos/next_goal" in fields:
        return fields["infos/next_goal"]
    goals, ends = fields["infos/goal"], fields["terminals"] | fields["timeouts"]
    after: np.ndarray = np.concatenate([goals[1:], goals[-1:]])
    after[ends] = goals[ends]
    return after


def _check_scaled(actions: np.ndarray) -> None:
    """Refuse actions that were not scaled to [-1, 1], of the buffer's rows in their order."""
    row = _first_outside(actions)
    if row is not None:
        raise PgdiffError(
            f"`actions`, row {row}: must lie in [-1, 1], to which Stable-Baselines3's agents scale "
            f"them. Got {actions[row].tolist()}. If the buffer was filled with actions as the "
            "environment takes them, read it by from_replay_buffer(buffer, scaled_actions=False)."
        )


def _check_inside(scaled: np.ndarray, space: Any) -> None:
    row = _first_outside(scaled)
    if row is not None:
        raise PgdiffError(
            f"`action_space` must hold the recorded actions, to scale them to [-1, 1]. Got {space} "
            f"and an action outside it in row {row}. Pass a wider space, or scaled_actions=False."
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
