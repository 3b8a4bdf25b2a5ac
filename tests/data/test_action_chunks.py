"""Action chunks (the actions between tokens) against loops over rows."""

from itertools import product

import numpy as np
import pytest
import torch

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, SegmentDataset
from pgdiff.data.normalizers import fit_normalizer
from pgdiff.trajectory import Layout

RNG = np.random.default_rng(0)
LENGTHS = [7, 1, 12, 5]
ENDS = np.cumsum(LENGTHS)


def recorded() -> Episodes:
    """Episodes whose actions are the numbers of their rows."""
    steps = int(ENDS[-1])
    timeouts = np.zeros(steps, bool)
    timeouts[ENDS - 1] = True
    return Episodes.from_arrays(
        observations=RNG.normal(size=(steps, 3)).astype(np.float32),
        actions=np.stack([np.arange(steps), -np.arange(steps)], axis=1).astype(np.float32),
        rewards=np.zeros(steps, np.float32),
        terminals=np.zeros(steps, bool),
        timeouts=timeouts,
    )


def test_chunks_hold_every_step_of_the_episode() -> None:
    sizes = ((1, 1), (2, 3), (3, 2), (4, 1), (2, 6))
    for (horizon, stride), padding in product(sizes, ("none", "repeat")):
        compare_chunks(horizon, stride, padding)


def compare_chunks(horizon: int, stride: int, padding: str) -> None:
    episodes = recorded()
    fields = ("observations", "action_chunks")
    dataset = SegmentDataset(episodes, horizon, stride, fields=fields, padding=padding)
    numbers = np.arange(len(dataset))
    chunks = dataset.batch(numbers).action_chunks
    rows, real = dataset.index.rows(numbers)
    assert chunks.shape == (len(dataset), horizon, 2 * stride) and chunks.dtype == np.float32
    beyond = 0
    for segment in numbers:
        for token in range(horizon):
            row = rows[segment, token]
            last = ENDS[np.searchsorted(ENDS, row, side="right")] - 1
            # Consecutive rows from the token's row on; the episode's last row is repeated.
            steps = [min(row + j, last) for j in range(stride)]
            beyond += steps[-1] == steps[-2] if stride > 1 else 0
            expected = [number for step in steps for number in (step, -step)]
            assert chunks[segment, token].tolist() == expected
            assert real[segment, token] or row == last
    assert beyond > 0 or stride == 1


def test_the_first_action_of_a_chunk_is_the_one_at_its_row() -> None:
    fields = ("observations", "actions", "action_chunks")
    dataset = SegmentDataset(recorded(), 3, 2, fields=fields)
    batch = dataset.batch(np.arange(len(dataset)))
    assert np.array_equal(batch.action_chunks[..., :2], batch.actions)
    # No step lies between the last step of a chunk and the first of the next.
    assert np.array_equal(batch.action_chunks[:, :-1, -2:] + [1, -1], batch.actions[:, 1:])
    plain = SegmentDataset(recorded(), 3, 2).batch(np.arange(4))
    assert plain.action_chunks.shape == (4, 3, 0)


def test_previous_actions_are_the_chunk_of_the_token_before() -> None:
    fields = ("observations", "action_chunks", "previous_actions")
    for (horizon, stride), padding in product(((1, 1), (2, 3), (4, 2)), ("none", "repeat")):
        dataset = SegmentDataset(recorded(), horizon, stride, fields=fields, padding=padding)
        batch = dataset.batch(np.arange(len(dataset)))
        assert batch.previous_actions.shape == (len(dataset), horizon, 2 * stride)
        assert not batch.previous_actions[:, 0].any()
        assert np.array_equal(batch.previous_actions[:, 1:], batch.action_chunks[:, :-1])


def test_every_action_of_a_chunk_is_normalised_alike() -> None:
    episodes = recorded()
    tokens = torch.from_numpy(RNG.normal(size=(5, 9)).astype(np.float32))
    for kind in ("limits", "standard"):
        whole = fit_normalizer(kind, [episodes.observations, episodes.actions], repeats=[1, 3])
        actions = fit_normalizer(kind, [episodes.actions])
        observations = fit_normalizer(kind, [episodes.observations])
        normal = whole.normalize(tokens)
        for step in range(3):
            columns = slice(3 + 2 * step, 5 + 2 * step)
            torch.testing.assert_close(normal[:, columns], actions.normalize(tokens[:, columns]))
        torch.testing.assert_close(normal[:, :3], observations.normalize(tokens[:, :3]))


def test_a_layout_has_room_for_every_action() -> None:
    layout = Layout(fields=(("action_chunks", 6), ("observations", 4)), horizon=5, stride=3)
    assert layout.features == 10
    assert layout.slices == {"action_chunks": slice(0, 6), "observations": slice(6, 10)}
    x = torch.from_numpy(RNG.normal(size=(2, 5, 10)))
    segment = layout.segment(x)
    assert segment.action_chunks is not None and segment.actions is None
    assert torch.equal(segment.action_chunks, x[..., :6])
    assert torch.equal(segment.observations, x[..., 6:])
    with pytest.raises(PgdiffError, match=r"'action_chunks' the size of `stride` actions. Got 5"):
        Layout(fields=(("observations", 4), ("action_chunks", 5)), horizon=5, stride=3)
    with pytest.raises(PgdiffError, match=r"'previous_actions' the size of `stride` actions"):
        Layout(fields=(("observations", 4), ("previous_actions", 5)), horizon=5, stride=3)
    for horizon, other in ((1, ()), (5, (("actions", 2),)), (5, (("action_chunks", 6),))):
        with pytest.raises(PgdiffError, match="'previous_actions' without other actions"):
            Layout(
                fields=(("observations", 4), ("previous_actions", 6), *other),
                horizon=horizon,
                stride=3,
            )
    for wrong in (0, -2):
        with pytest.raises(PgdiffError, match="`stride` must be an integer of at least 1"):
            Layout(fields=(("observations", 4), ("action_chunks", 6)), horizon=5, stride=wrong)
