"""Arrays for d3rlpy: its rule yields the recorded transitions."""

from typing import Any

import numpy as np
import pytest

from pgdiff import Episodes, PgdiffError
from pgdiff.data import to_mdp_arrays

LENGTHS, ENDED = (4, 1, 3, 1), (False, False, True, True)


def recording(*, following: bool = True) -> Episodes:
    last = np.cumsum(LENGTHS) - 1
    steps = sum(LENGTHS)
    rows = np.arange(steps, dtype=np.float32)
    # Every episode starts at another position.
    observations = np.concatenate(
        [100 * i + np.arange(n, dtype=np.float32) for i, n in enumerate(LENGTHS)]
    )[:, None]
    terminals = np.zeros(steps, bool)
    terminals[last] = ENDED
    timeouts = np.zeros(steps, bool)
    timeouts[last] = ~np.array(ENDED)
    return Episodes.from_arrays(
        observations=observations,
        actions=-rows[:, None],
        rewards=rows,
        terminals=terminals,
        timeouts=timeouts,
        next_observations=observations + 1 if following else None,
    )


def transitions(arrays: dict[str, np.ndarray]) -> list[tuple[float, ...]]:
    """Return d3rlpy's transitions (o, a, r, o', terminal), without a cut-off episode's last row."""
    result = []
    for row in range(len(arrays["observations"])):
        o, a, r = (float(arrays[k][row, 0]) for k in ("observations", "actions", "rewards"))
        if arrays["terminals"][row]:
            result.append((o, a, r, 0.0, 1.0))
        elif not arrays["timeouts"][row]:
            result.append((o, a, r, float(arrays["observations"][row + 1, 0]), 0.0))
    return result


def test_every_transition_is_made_and_no_other() -> None:
    episodes = recording()
    expected = [
        (float(o[0]), float(a[0]), float(r), 0.0 if t else float(n[0]), float(t))
        for o, a, r, n, t in zip(
            episodes.observations,
            episodes.actions,
            episodes.rewards,
            episodes.next_observations,  # type: ignore[arg-type]
            episodes.terminals,
            strict=True,
        )
    ]
    assert transitions(to_mdp_arrays(episodes)) == expected


def test_without_next_observations_the_last_row_of_a_cut_episode_makes_none() -> None:
    arrays = to_mdp_arrays(recording(following=False))
    assert len(arrays["observations"]) == sum(LENGTHS)
    assert [t[0] for t in transitions(arrays)] == [0, 1, 2, 200, 201, 202, 300]


def test_a_selection_keeps_its_own_rows() -> None:
    arrays = to_mdp_arrays(recording().select([1, 3]))
    assert [t[0] for t in transitions(arrays)] == [100, 300]


def test_a_jump_within_an_episode_is_named() -> None:
    fields: dict[str, Any] = recording().fields()
    fields["next_observations"] = fields["next_observations"].copy()
    fields["next_observations"][1] += 5
    with pytest.raises(PgdiffError, match=r"`next_observations` must .* in row 1"):
        to_mdp_arrays(Episodes.from_arrays(**fields))
