"""Conversion of samples to rows: terminals, cut tokens, clipped actions."""

import numpy as np
import pytest
import torch
from line_world import FIELDS, ROWS

from pgdiff import PgdiffError
from pgdiff.synthesis import Counts, decode
from pgdiff.synthesis.decode import check_segments
from pgdiff.trajectory import Layout, Segment

BOUNDS = (np.float32([-1.0]), np.float32([1.0]))


def segment(ends: list[list[float]], *, following: bool = False) -> Segment:
    flags = torch.tensor(ends)[..., None]
    places = torch.arange(flags.numel(), dtype=torch.float32).reshape(flags.shape)
    return Segment(
        observations=places,
        actions=places - 4,
        rewards=-places,
        terminals=flags,
        next_observations=places + 0.5 if following else None,
    )


def test_a_trajectory_ends_with_its_first_terminal() -> None:
    rows, counts = decode(
        segment([[0.1, 0.6, 0.0, 0.9], [0.4, -3.0, 0.5, 0.2], [0.0, 0.0, 0.0, 2.0]]), bounds=BOUNDS
    )
    assert rows["observations"][:, 0].tolist() == [0, 1, 4, 5, 6, 8, 9, 10, 11]
    assert rows["terminals"].tolist() == [False, True, *[False] * 6, True]
    assert rows["timeouts"].tolist() == [*[False] * 4, True, *[False] * 4]
    # Next observations: those of the next token, or of the row itself at the last token.
    assert rows["next_observations"][:, 0].tolist() == [1, 2, 5, 6, 7, 9, 10, 11, 11]
    assert rows["actions"][:, 0].tolist() == [-1, -1, 0, 1, 1, 1, 1, 1, 1]
    assert rows["rewards"].tolist() == [0, -1, -4, -5, -6, -8, -9, -10, -11]
    assert counts == Counts(trajectories=3, transitions=9, terminals=2, cut=2, clipped=7)


def test_tokens_that_hold_what_follows_are_rows_by_themselves() -> None:
    rows, counts = decode(segment([[0.1], [0.7]], following=True), bounds=None)
    assert rows["next_observations"][:, 0].tolist() == [0.5, 1.5]
    assert rows["timeouts"].tolist() == [True, False]
    assert rows["terminals"].tolist() == [False, True]
    assert counts.transitions == 2
    assert rows["actions"][:, 0].tolist() == [-4, -3]


def test_trajectories_end_by_the_tasks_rule_too_where_there_is_one() -> None:
    drawn = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.9, 0.0, 0.0], [0.9, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.9]]
    # Observations are 0 to 15 in order; 2, 7 and 8 are falls.
    rows, counts = decode(
        segment(drawn), bounds=None, ends=lambda x: np.isin(x[..., 0], [2.0, 7.0, 8.0])
    )
    # The first falls without a terminal, the second after one, and the third begins fallen.
    assert rows["observations"][:, 0].tolist() == [0, 1, 4, 5, 12, 13, 14, 15]
    assert np.flatnonzero(rows["terminals"]).tolist() == [1, 3, 7]
    assert not rows["timeouts"].any()
    assert rows["next_observations"][:, 0].tolist() == [1, 2, 5, 6, 13, 14, 15, 15]
    assert counts == Counts(trajectories=4, transitions=8, terminals=3, cut=4)


def test_a_rule_asks_what_a_token_holds_of_the_next_step() -> None:
    rows, counts = decode(
        segment([[0.9], [0.0], [0.0], [0.9]], following=True),
        bounds=None,
        ends=lambda x: np.isin(x[..., 0], [1.5, 3.0]),
    )
    assert rows["observations"][:, 0].tolist() == [0, 1, 2]
    assert rows["terminals"].tolist() == [True, True, False]
    assert rows["timeouts"].tolist() == [False, False, True]
    assert counts == Counts(trajectories=4, transitions=3, terminals=2)


def test_a_model_that_makes_no_transitions_is_refused() -> None:
    for fields, horizon, stride, message in (
        (("observations",), 4, 1, "without actions, rewards, terminals"),
        (("observations", "actions", "rewards"), 4, 1, "without terminals"),
        (FIELDS, 3, 2, "a stride of 1. Got 2"),
        (FIELDS, 1, 1, "'next_observations'"),
    ):
        layout = Layout(fields=tuple((n, 1) for n in fields), horizon=horizon, stride=stride)
        with pytest.raises(PgdiffError, match=message):
            check_segments(layout.spec)
    check_segments(Layout(fields=tuple((name, 1) for name in ROWS), horizon=1).spec)
