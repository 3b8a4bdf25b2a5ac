"""Ends of episodes, selections and splits."""

import numpy as np
import pytest
import torch

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, ObservationLayout, SegmentDataset


def test_terminals_and_timeouts_end_with_their_row(recording) -> None:
    fields = recording((4, 3, 5))
    fields["terminals"][3] = True  # together with a timeout
    fields["terminals"][8] = True
    episodes = Episodes.from_arrays(**fields)
    np.testing.assert_array_equal(episodes.starts, [0, 4, 7, 9])
    np.testing.assert_array_equal(episodes.ends, [4, 7, 9, 12])


def test_unfinished_last_episode_is_kept(recording) -> None:
    fields = recording((4, 3, 5))
    fields["timeouts"][-1] = False
    np.testing.assert_array_equal(Episodes.from_arrays(**fields).lengths, [4, 3, 5])


def test_timeouts_may_be_missing_where_terminals_mark_ends(recording) -> None:
    fields = recording((4, 3, 5))
    fields["terminals"] = fields.pop("timeouts")
    episodes = Episodes.from_arrays(**fields)
    np.testing.assert_array_equal(episodes.lengths, [4, 3, 5])
    assert not episodes.timeouts.any()


def test_caller_keeps_his_arrays(recording) -> None:
    fields = recording()
    episodes = Episodes.from_arrays(**fields)
    fields["observations"][0] = 99.0
    assert (episodes.observations[0] != 99.0).all()
    with pytest.raises(ValueError, match="read-only"):
        episodes.observations[0] = 1.0


def _walk(resets: bool) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    moves = generator.uniform(-0.1, 0.1, size=(300, 2))
    if resets:
        moves[200] = [0.02, 5.0]  # the jump after row 199: large in one feature alone
    return {
        "observations": moves.cumsum(axis=0),
        "actions": np.zeros((300, 1)),
        "rewards": np.zeros(300),
        "terminals": np.arange(300) == 99,
        "timeouts": np.arange(300) == 199,
    }


def test_join_continuous_drops_marks_without_a_jump() -> None:
    fields = _walk(resets=False)
    assert len(Episodes.from_arrays(**fields)) == 3
    joined = Episodes.from_arrays(**fields, join_continuous=True)
    np.testing.assert_array_equal(joined.lengths, [300])
    assert not joined.terminals.any() and not joined.timeouts.any()


def test_join_continuous_keeps_true_resets() -> None:
    joined = Episodes.from_arrays(**_walk(resets=True), join_continuous=True)
    np.testing.assert_array_equal(joined.lengths, [200, 100])
    assert joined.timeouts[199] and not joined.terminals[99]


def test_join_continuous_reads_an_unmarked_file_as_one_episode() -> None:
    fields = _walk(resets=False)
    fields["terminals"][:] = False
    del fields["timeouts"]
    assert len(Episodes.from_arrays(**fields, join_continuous=True)) == 1


def test_join_continuous_where_every_row_is_marked() -> None:
    fields = _walk(resets=False)
    fields["terminals"][:] = True
    assert len(Episodes.from_arrays(**fields, join_continuous=True)) == 300


def _rows(episodes: Episodes) -> set[int]:
    bounds = zip(episodes.starts, episodes.ends, strict=True)
    return {row for start, end in bounds for row in range(start, end)}


def test_split_by_whole_episodes(recording) -> None:
    episodes = Episodes.from_arrays(**recording(tuple(range(3, 23))))
    train, held_out = episodes.split(0.2, seed=0)
    assert (len(train), len(held_out)) == (16, 4)
    assert _rows(train) | _rows(held_out) == set(range(episodes.steps))
    assert not _rows(train) & _rows(held_out)
    assert set(held_out.starts) < set(episodes.starts)
    again, other = episodes.split(0.2, seed=0)[1], episodes.split(0.2, seed=1)[1]
    np.testing.assert_array_equal(held_out.starts, again.starts)
    assert held_out.starts.tolist() != other.starts.tolist()


def test_split_always_leaves_both_parts(recording) -> None:
    for lengths in ((50,), (5, 40, 6), (2,), (3,) * 12):
        episodes = Episodes.from_arrays(**recording(lengths))
        for validation in (0.001, 0.1, 0.999):
            train, held_out = episodes.split(validation, seed=0)
            assert train.lengths.min() > 0 and held_out.lengths.min() > 0
            assert train.lengths.sum() + held_out.lengths.sum() == episodes.steps
            assert not _rows(train) & _rows(held_out)


def test_split_cuts_the_longest_of_few(recording) -> None:
    train, held_out = Episodes.from_arrays(**recording((5, 40, 6))).split(0.25, seed=0)
    np.testing.assert_array_equal(train.lengths, [5, 30, 6])
    np.testing.assert_array_equal((held_out.starts, held_out.ends), [[35], [45]])


def test_split_refuses(recording) -> None:
    for validation in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(PgdiffError, match="`validation`"):
            Episodes.from_arrays(**recording()).split(validation, seed=0)
    with pytest.raises(PgdiffError, match="at least 2 rows"):
        Episodes.from_arrays(**recording((1, 1))).split(0.5, seed=0)


def test_episode_length_cuts_where_no_terminal_ends(recording) -> None:
    """10, 10, 10, 10 rows, not the 10, 9, 9, 9 of a fallback that forgets the row of the cut."""
    fields = recording((40,))
    del fields["timeouts"]
    episodes = Episodes.from_arrays(**fields, episode_length=10)
    np.testing.assert_array_equal(episodes.lengths, [10] * 4)
    assert episodes.timeouts.sum() == 4 and not episodes.terminals.any()
    fields["terminals"][[3, 13, 27]] = True
    episodes = Episodes.from_arrays(**fields, episode_length=10)
    np.testing.assert_array_equal(episodes.lengths, [4, 10, 10, 4, 10, 2])
    assert np.flatnonzero(episodes.timeouts).tolist() == [23, 37]
    np.testing.assert_array_equal(episodes.timeouts & episodes.terminals, np.zeros(40))


def test_episode_length_against_a_loop(recording) -> None:
    fields = recording((40,))
    del fields["timeouts"]
    fields["terminals"] = np.random.default_rng(1).random(40) < 0.15
    for limit in (1, 3, 40, 1000):
        lengths, count = [], 0
        for terminal in fields["terminals"]:
            count += 1
            if terminal or count == limit:
                lengths.append(count)
                count = 0
        lengths += [count] * (count > 0)
        episodes = Episodes.from_arrays(**fields, episode_length=limit)
        np.testing.assert_array_equal(episodes.lengths, lengths)


def test_episode_length_is_refused_with_timeouts(recording) -> None:
    with pytest.raises(PgdiffError, match=r"without `timeouts`.* Got 10 .*with 3 timeouts"):
        Episodes.from_arrays(**recording(), episode_length=10)
    fields = recording()
    del fields["timeouts"]
    for bad in (0, -1, 2.5):
        with pytest.raises(PgdiffError, match="`episode_length` must be an integer"):
            Episodes.from_arrays(**fields, episode_length=bad)


def test_fields_give_the_same_episodes_again(recording) -> None:
    fields = recording((5, 3, 12))
    episodes = Episodes.from_arrays(**fields, infos={"qpos": fields["observations"]})
    assert episodes.fields()["observations"] is episodes.observations  # not copied
    assert episodes.fields().keys() == {*fields, "infos/qpos"}
    selection = episodes.select([2, 0]).fields()
    np.testing.assert_array_equal(
        selection["rewards"], fields["rewards"][[*range(8, 20), *range(5)]]
    )
    layout = ObservationLayout(fields=(("a", 1), ("b", 2)))
    for part in (
        Episodes.from_arrays(**fields, infos={"qpos": fields["observations"]}),
        episodes.select([2, 0]),
        episodes.split(0.3, seed=np.int64(0))[0],
        episodes.select([1]).split(0.5, seed=0)[0],  # one episode without a mark
    ):
        again = Episodes.from_arrays(**part.fields(), observation_layout=layout)
        np.testing.assert_array_equal(again.lengths, part.lengths)
        for name, values in part.fields().items():
            np.testing.assert_array_equal(again.fields()[name], values)
    with pytest.raises(PgdiffError, match=r"`infos/qpso` is not .*mean 'infos/qpos'"):
        Episodes.from_arrays(**fields, **{"infos/qpso": fields["observations"]})
    with pytest.raises(PgdiffError, match="`infos/goal` must be given once"):
        goal = fields["observations"]
        Episodes.from_arrays(**fields, infos={"goal": goal}, **{"infos/goal": goal})


def test_select_refuses(recording) -> None:
    for chosen, message in (
        ([], "at least one episode"),
        ([3], "0 to 2. Got 3"),
        ([0.5], "must be integers, or one bool for each of the 3"),
        ([True, False], "one bool for each of the 3"),
        ([[0, 1]], "must be integers"),
        ("all", "must be integers"),
    ):
        with pytest.raises(PgdiffError, match=message):
            Episodes.from_arrays(**recording()).select(chosen)


def test_select_by_number_and_by_flag(recording) -> None:
    episodes = Episodes.from_arrays(**recording((5, 3, 12)))
    for chosen in ([0, 2], [0, -1], [True, False, True], np.array([0, 2], np.uint8)):
        assert episodes.select(chosen).lengths.tolist() == [5, 12]
    assert episodes.select(np.int64(1)).lengths.tolist() == [3]


def test_tensors_are_accepted(recording) -> None:
    """Tensors of any floating type are accepted, with or without gradients."""
    fields = recording()
    expected = Episodes.from_arrays(**fields)
    tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
    tensors["observations"].requires_grad_()
    tensors["actions"] = tensors["actions"].bfloat16().requires_grad_()
    episodes = Episodes.from_arrays(**tensors)
    assert np.array_equal(episodes.observations, expected.observations)
    assert np.allclose(episodes.actions, expected.actions, atol=0.01)
    tensors["rewards"] = [torch.ones((), requires_grad=True)] * episodes.steps
    with pytest.raises(PgdiffError, match="`rewards` must be an array"):
        Episodes.from_arrays(**tensors)


def test_numpy_integers_are_integers(recording) -> None:
    fields = recording((40,))
    del fields["timeouts"]
    episodes = Episodes.from_arrays(**fields, episode_length=np.int32(3))
    assert episodes.lengths.tolist() == [3] * 13 + [1]
    held_out = episodes.split(0.2, seed=np.uint8(3))[1]
    assert np.array_equal(held_out.starts, episodes.split(0.2, seed=3)[1].starts)
    SegmentDataset(episodes, np.int64(2), np.int64(1)).batch(np.arange(3, dtype=np.int16))
