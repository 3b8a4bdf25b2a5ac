"""Samples keep to the range of the recorded actions, whatever pushes them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from toys import generator, tiny_model, walk

from pgdiff import TrajectoryDiffusion
from pgdiff.guides import bind
from pgdiff.planning.inputs import warn_far
from pgdiff.validation import PgdiffError

WALK = walk()
FIELDS = ("observations", "actions")


def model(**options: Any) -> TrajectoryDiffusion:
    settings = {"fields": FIELDS, "normalizer": "standard", "stride": 1}
    return tiny_model(WALK, **(settings | options))


class Faster:
    """Wants larger actions, and positions further right."""

    name, at, scale = "faster", "x0", 1e3

    def energy(self, segment: Any, level: torch.Tensor) -> torch.Tensor:
        actions = segment.actions if segment.actions is not None else segment.action_chunks
        return actions.sum(dim=(1, 2)) + segment.observations[..., 0].sum(dim=1)


def pushed(model: TrajectoryDiffusion, **options: Any) -> Any:
    x = model.sample(
        batch=4, generators=[generator(0)], steps=4, guidance=[bind(Faster(), model)], **options
    )
    return model.layout.segment(model.normalizer.unnormalize(x))


@pytest.mark.parametrize("chunks", [False, True])
def test_a_push_ends_at_the_greatest_recorded_action(chunks: bool) -> None:
    own = model(fields=("observations", "action_chunks"), stride=3) if chunks else model()
    high = WALK.actions.max(axis=0)
    segment, free = pushed(own), pushed(own, clip=None)
    actions = segment.action_chunks if chunks else segment.actions
    expected = torch.from_numpy(np.tile(high, 3 if chunks else 1)).expand_as(actions)
    torch.testing.assert_close(actions, expected)
    assert (free.action_chunks if chunks else free.actions).max() > 2
    # Observations have no limit: they go as far as without.
    assert segment.observations[..., 0].max() > 10


def test_the_range_is_saved_and_a_model_without_one_is_free() -> None:
    whole = model()
    assert whole.action_range == tuple(
        tuple(map(float, bound)) for bound in (WALK.actions.min(axis=0), WALK.actions.max(axis=0))
    )
    assert tiny_model(WALK, normalizer="standard").action_range is None
    whole.action_range = None  # as of one that was saved before ranges were
    assert pushed(whole).actions.max() > 2


def test_a_saved_model_keeps_its_range(tmp_path: Any) -> None:
    whole = model()
    whole.save_pretrained(tmp_path / "model")
    read = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert read.action_range == whole.action_range
    assert torch.equal(pushed(read).actions, pushed(whole).actions)


@pytest.mark.parametrize(
    "wrong", [[[0.0, 0.0]], [[0.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, math.nan]]]
)
def test_a_range_that_is_none_is_named(wrong: Any) -> None:
    own = model()
    settings = {
        name: getattr(own, name)
        for name in ("layout", "normalizer", "denoiser", "schedule", "prediction")
    }
    with pytest.raises(PgdiffError, match="`action_range` must be"):
        TrajectoryDiffusion(**settings, action_range=wrong)


def test_limits_follow_the_scales_of_fields() -> None:
    """The ends of the data, however small or large a field is made."""
    own = model(normalizer="limits", field_scales={"observations": 2.0, "actions": 0.25})
    plain = model(normalizer="limits")
    for which in (own, plain):
        segment = pushed(which)
        high = torch.from_numpy(WALK.observations.max(axis=0))[0]
        torch.testing.assert_close(segment.observations[..., 0].max(), high)
        assert segment.actions.max() == pytest.approx(WALK.actions.max(), abs=1e-5)
    raw = torch.from_numpy(np.concatenate([WALK.observations, WALK.actions], axis=1)).float()
    scaled = own.normalizer.normalize(raw)
    torch.testing.assert_close(scaled[:, :4], 2.0 * plain.normalizer.normalize(raw)[:, :4])
    torch.testing.assert_close(own.normalizer.unnormalize(scaled), raw)
    slope = own.normalizer.log_slope(raw)[0].exp()
    torch.testing.assert_close(slope, own.normalizer.factor / own.normalizer.scale)


def test_what_is_far_does_not_hang_on_the_scales_of_fields() -> None:
    for scale in (0.1, 1.0, 10.0):
        own = model(normalizer="limits", field_scales={"observations": scale})
        inside = 0.95 * WALK.observations.max(axis=0)[None]
        assert not warn_far(inside, own)
        with pytest.warns(UserWarning, match="is far outside the data"):
            assert warn_far(10 * inside, own)
