"""Conversion of sampled segments to rows of a recording."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.trajectory import Segment, SegmentSpec

REQUIRED_FIELDS = ("actions", "rewards", "terminals")
TERMINAL_THRESHOLD = 0.5
"""Sampled terminals above it end a trajectory (Lu et al. 2023; Jackson et al. 2024)."""

Bounds = tuple[Float[np.ndarray, " action"], Float[np.ndarray, " action"]]
Ends = Callable[[Float[np.ndarray, "*rows obs"]], Bool[np.ndarray, "*rows"]]
"""Termination rule of a task: a function that marks the observations that end an episode."""


@dataclass(frozen=True)
class Counts:
    """Counts of a decoded batch of samples.

    Attributes:
        trajectories: number of sampled trajectories.
        transitions: number of rows.
        terminals: number of trajectories that end with a terminal.
        cut: number of tokens after a terminal, which are discarded.
        clipped: number of action features in the rows that were clipped to their bounds.

    Example:
        >>> from pgdiff.synthesis import Counts
        >>> total = Counts(trajectories=2, transitions=14) + Counts(trajectories=2, transitions=9)
        >>> total.trajectories, total.transitions
        (4, 23)
    """

    trajectories: int = 0
    transitions: int = 0
    terminals: int = 0
    cut: int = 0
    clipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + vars(other)[name] for name, value in vars(self).items()})


def check_segments(spec: SegmentSpec) -> None:
    """Raise if a model's tokens do not hold transitions.

    Raises:
        PgdiffError: a field is missing, or tokens are more than one step apart.
    """
    fields = spec.sizes
    missing = [name for name in REQUIRED_FIELDS if name not in fields]
    if missing:
        raise PgdiffError(
            f"`model` must generate observations, {', '.join(REQUIRED_FIELDS)}. Got one without "
            f"{', '.join(missing)}. Train one with `pgdiff train recipe=synthesis`."
        )
    if spec.stride != 1:
        raise PgdiffError(
            f"`model` must have one token per step, a stride of 1. Got {spec.stride}."
        )
    if spec.waypoints == 1 and "next_observations" not in fields:
        raise PgdiffError(
            "`model` must generate 'next_observations' if its horizon is 1. Got one without."
        )


def decode(
    segment: Segment, *, bounds: Bounds | None, ends: Ends | None = None
) -> tuple[dict[str, np.ndarray], Counts]:
    """Convert segments to rows of D4RL's fields, one trajectory after the other.

    A trajectory ends with the row of its first terminal. Without a terminal, its last row is marked
    as a timeout. If the tokens have no field `next_observations`, the next observation of a token
    is the observation of the next token. The last of the T tokens then has no successor: it becomes
    a row only if it is terminal, and its next observation is its observation.

    With `ends`, a row is also terminal if the rule holds for its next observation, and a trajectory
    whose first observation ends an episode is discarded. Sampled terminals still end trajectories:
    they mark ends that the sampled next observation narrowly misses.

    Args:
        segment: segments in raw units with the fields `REQUIRED_FIELDS`.
        bounds: smallest and largest action; None does not clip actions.
        ends: rule that marks the observations that end an episode; None uses only the sampled
            terminals.

    Returns:
        Rows `observations`, `actions`, `rewards`, `next_observations` (float32), `terminals` and
        `timeouts` (bool), and their counts.
    """
    assert segment.actions is not None
    assert segment.rewards is not None
    assert segment.terminals is not None
    observations, actions = _as_array(segment.observations), _as_array(segment.actions)
    rewards = _as_array(segment.rewards)[..., 0]
    terminal = np.greater(_as_array(segment.terminals)[..., 0], TERMINAL_THRESHOLD)
    batch, tokens = terminal.shape
    has_next = segment.next_observations is not None
    if segment.next_observations is not None:
        following = _as_array(segment.next_observations)
    else:
        following = np.concatenate([observations[:, 1:], observations[:, -1:]], axis=1)
    transitions = tokens if has_next else tokens - 1
    if ends is not None:
        terminal[:, :-1] |= ends(observations[:, 1:])
        if has_next:  # may differ from the observation of the next token
            terminal |= ends(following)
    ended = terminal.any(axis=1)
    # Rows up to and including the first terminal, or else all tokens that have a successor.
    kept = np.where(ended, terminal.argmax(axis=1) + 1, transitions)
    if ends is not None:
        kept = np.where(ends(observations[:, 0]), 0, kept)
        ended &= kept > 0
    is_row = np.less(np.arange(tokens), kept[:, None])
    last = np.equal(np.arange(tokens), kept[:, None] - 1)
    clipped = 0
    if bounds is not None:
        low, high = bounds
        outside = np.less(actions, low) | np.greater(actions, high)
        clipped = int(outside[is_row].sum())
        actions = np.clip(actions, low, high)
    rows = {
        "observations": observations[is_row],
        "actions": actions[is_row],
        "rewards": rewards[is_row],
        "next_observations": following[is_row],
        "terminals": (last & ended[:, None])[is_row],
        "timeouts": (last & ~ended[:, None])[is_row],
    }
    counts = Counts(
        trajectories=batch,
        transitions=int(kept.sum()),
        terminals=int(ended.sum()),
        cut=int((tokens - kept)[ended].sum()),
        clipped=clipped,
    )
    return rows, counts


def _as_array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy().astype(np.float32)
    return array
