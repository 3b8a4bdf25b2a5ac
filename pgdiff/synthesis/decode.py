"""From sampled segments to recorded rows: ends by threshold, actions within their bounds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.trajectory import Layout, Segment
from pgdiff.validation import PgdiffError

NEEDED = ("actions", "rewards", "terminals")
ENDED = 0.5
"""A terminal above this ends a trajectory (Lu et al. 2023; Jackson et al. 2024)."""

Bounds = tuple[Float[np.ndarray, " action"], Float[np.ndarray, " action"]]
Ends = Callable[[Float[np.ndarray, "*rows obs"]], Bool[np.ndarray, "*rows"]]
"""Which observations end an episode, by a task's own rule."""


@dataclass(frozen=True)
class Counts:
    """What was made of a batch of samples.

    Attributes:
        trajectories: sampled.
        transitions: kept.
        terminals: trajectories that the task itself ended.
        cut: tokens after a terminal, which are left out.
        clipped: features of kept actions that lay outside their bounds, and were put on them.
    """

    trajectories: int = 0
    transitions: int = 0
    terminals: int = 0
    cut: int = 0
    clipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + vars(other)[name] for name, value in vars(self).items()})


def check_layout(layout: Layout) -> None:
    """Refuse a model whose tokens do not make transitions.

    Raises:
        PgdiffError: a field that is lacking, or tokens more than one step apart.
    """
    fields = layout.slices
    lacking = [name for name in NEEDED if name not in fields]
    if lacking:
        raise PgdiffError(
            f"`model` must generate {', '.join(NEEDED)} beside observations. Got one without "
            f"{', '.join(lacking)}; train it with pgdiff train recipe=synthesis."
        )
    if layout.stride != 1:
        raise PgdiffError(
            f"`model` must have a token for every step, a stride of 1. Got {layout.stride}."
        )
    if layout.horizon == 1 and "next_observations" not in fields:
        raise PgdiffError(
            "`model` must generate 'next_observations' where its horizon is 1. Got one without."
        )


def decode(
    segment: Segment, *, bounds: Bounds | None, ends: Ends | None = None
) -> tuple[dict[str, np.ndarray], Counts]:
    """Turn segments into rows of D4RL's fields, one trajectory after the other.

    A trajectory goes up to its first terminal, whose row is kept. Where no terminal ends it, its
    last row is marked as a timeout. The next observation of a token that holds none itself is the
    next token's. The last of T tokens then has no successor and is kept only where a terminal ends
    it, with its own observation as the next one.

    With `ends` a row is terminal also where that says so of its next observation, whatever was
    drawn, and a trajectory that begins where an episode would have ended is left out. A drawn
    terminal counts all the same: it stands for a fall that the next observation misses by a little.

    Args:
        segment: in raw units, with `NEEDED`.
        bounds: least and greatest action, or None for any.
        ends: which observations end an episode; None for the drawn terminals alone.

    Returns:
        `observations`, `actions`, `rewards`, `next_observations` (float32), `terminals` and
        `timeouts` (bool), and what was cut and clipped.
    """
    assert segment.actions is not None
    assert segment.rewards is not None
    assert segment.terminals is not None
    observations, actions = _array(segment.observations), _array(segment.actions)
    rewards = _array(segment.rewards)[..., 0]
    over = np.greater(_array(segment.terminals)[..., 0], ENDED)
    batch, tokens = over.shape
    told = segment.next_observations is not None
    if segment.next_observations is not None:
        after = _array(segment.next_observations)
    else:
        after = np.concatenate([observations[:, 1:], observations[:, -1:]], axis=1)
    followed = tokens if told else tokens - 1
    if ends is not None:
        over[:, :-1] |= ends(observations[:, 1:])
        if told:  # which need not be the next token's
            over |= ends(after)
    ended = over.any(axis=1)
    # Rows up to and with the first terminal; all tokens that have a successor where there is none.
    kept = np.where(ended, over.argmax(axis=1) + 1, followed)
    if ends is not None:
        kept = np.where(ends(observations[:, 0]), 0, kept)
        ended &= kept > 0
    where = np.less(np.arange(tokens), kept[:, None])
    last = np.equal(np.arange(tokens), kept[:, None] - 1)
    clipped = 0
    if bounds is not None:
        low, high = bounds
        outside = np.less(actions, low) | np.greater(actions, high)
        clipped = int(outside[where].sum())
        actions = np.clip(actions, low, high)
    rows = {
        "observations": observations[where],
        "actions": actions[where],
        "rewards": rewards[where],
        "next_observations": after[where],
        "terminals": (last & ended[:, None])[where],
        "timeouts": (last & ~ended[:, None])[where],
    }
    counts = Counts(
        trajectories=batch,
        transitions=int(kept.sum()),
        terminals=int(ended.sum()),
        cut=int((tokens - kept)[ended].sum()),
        clipped=clipped,
    )
    return rows, counts


def _array(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy().astype(np.float32)
    return found
