"""Batches of real and synthetic transitions."""

import numpy as np
import pytest
from line_world import recording

from pgdiff import Episodes, PgdiffError
from pgdiff.data.transitions import TransitionDataset
from pgdiff.synthesis.mixed_batches import MixedTransitions


def marked(value: float) -> Episodes:
    fields = recording(episodes=3).fields()
    fields["rewards"] = np.full_like(fields["rewards"], value)
    return Episodes.from_arrays(**fields)  # type: ignore[arg-type]


def test_every_learner_has_its_share_of_its_own_set() -> None:
    real = TransitionDataset(recording(), copies=2)
    mixed = MixedTransitions(real, share=0.75)
    indices = np.random.default_rng(0).integers(len(mixed), size=64)
    plain = real.batch(indices)
    assert np.array_equal(mixed.batch(indices).reward, plain.reward)
    mixed.replace([marked(10.0), marked(20.0)])
    batch = mixed.batch(indices)
    assert batch.reward.shape == (64, 2)
    assert (batch.reward[:48] == [10.0, 20.0]).all()
    assert np.array_equal(batch.reward[48:], plain.reward[48:])
    assert np.array_equal(batch.observation[48:], plain.observation[48:])
    assert batch.next_action is None
    # Many of the set's rows are drawn, the same ones for the same numbers.
    assert len(np.unique(batch.observation[:48, 0])) > 20
    assert np.array_equal(mixed.batch(indices).observation, batch.observation)
    mixed.replace([marked(30.0), marked(40.0)])
    assert (mixed.batch(indices).reward[:48] == [30.0, 40.0]).all()


def test_wrong_sets_are_named() -> None:
    real = TransitionDataset(recording(), copies=2)
    with pytest.raises(PgdiffError, match="`share` must be"):
        MixedTransitions(real, share=1.5)
    with pytest.raises(PgdiffError, match="`synthetic` must be 2 data sets"):
        MixedTransitions(real, share=0.5).replace([marked(1.0)])
