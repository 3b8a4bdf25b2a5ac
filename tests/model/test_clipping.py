"""Samples stay in the range of the recorded actions under any guide."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_sample, generator, tiny_model, walk

from pgdiff import TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.guides import bind
from pgdiff.planning.inputs import warn_far

WALK = walk()
FIELDS = ("observations", "actions")


def model(**options: Any) -> TrajectoryDiffusion:
    settings = {"fields": FIELDS, "normalizer": "standard", "stride": 1}
    return tiny_model(WALK, **(settings | options))


class Faster:
    """A guide to larger actions, and to positions further right."""

    name, gradient_at, scale = "faster", "x0", 1e3

    def objective(self, segment: Any, level: torch.Tensor) -> torch.Tensor:
        actions = segment.actions if segment.actions is not None else segment.action_chunks
        return actions.sum(dim=(1, 2)) + segment.observations[..., 0].sum(dim=1)


def pushed(model: TrajectoryDiffusion, **options: Any) -> Any:
    x = flat_sample(
        model,
        batch=4,
        generators=[generator(0)],
        steps=4,
        guidance=[bind(Faster(), model)],
        **options,
    )
    return model.codec.decode(x)


@pytest.mark.parametrize("chunks", [False, True])
def test_a_push_ends_at_the_greatest_recorded_action(chunks: bool) -> None:
    built = model(fields=("observations", "action_chunks"), stride=3) if chunks else model()
    high = WALK.actions.max(axis=0)
    segment, free = pushed(built), pushed(built, clip=None)
    actions = segment.action_chunks if chunks else segment.actions
    expected = torch.from_numpy(np.tile(high, 3 if chunks else 1)).expand_as(actions)
    torch.testing.assert_close(actions, expected)
    assert (free.action_chunks if chunks else free.actions).max() > 2
    # Observations have no limits.
    assert segment.observations[..., 0].max() > 10


def test_the_range_is_saved_and_a_model_without_one_is_free() -> None:
    whole = model()
    assert whole.codec.action_range == tuple(
        tuple(map(float, bound)) for bound in (WALK.actions.min(axis=0), WALK.actions.max(axis=0))
    )
    assert tiny_model(WALK, normalizer="standard").codec.action_range is None
    free = TrajectoryDiffusion(
        codec=replace(whole.codec, action_range=None),
        denoiser=whole.denoiser,
        process=whole.process,
    )
    free.load_state_dict(whole.state_dict())
    assert pushed(free.eval()).actions.max() > 2


def test_a_saved_model_keeps_its_range(tmp_path: Any) -> None:
    whole = model()
    whole.save_pretrained(tmp_path / "model")
    read = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert read.codec.action_range == whole.codec.action_range
    assert torch.equal(pushed(read).actions, pushed(whole).actions)


def test_a_wrong_range_is_named() -> None:
    codec = model().codec
    unordered, infinite = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, math.nan]]
    for wrong in ([[0.0, 0.0]], [[0.0], [1.0]], unordered, infinite):
        with pytest.raises(PgdiffError, match="`action_range` must be"):
            replace(codec, action_range=wrong)


def test_limits_follow_the_scales_of_fields() -> None:
    """Limits are the range of the data for any scale of a field."""
    rescaled = model(normalizer="limits", field_scales={"observations": 2.0, "actions": 0.25})
    plain = model(normalizer="limits")
    for which in (rescaled, plain):
        segment = pushed(which)
        high = torch.from_numpy(WALK.observations.max(axis=0))[0]
        torch.testing.assert_close(segment.observations[..., 0].max(), high)
        assert segment.actions.max() == pytest.approx(WALK.actions.max(), abs=1e-5)
    raw = torch.from_numpy(np.concatenate([WALK.observations, WALK.actions], axis=1)).float()
    scaled = rescaled.codec.normalizer.normalize(raw)
    torch.testing.assert_close(scaled[:, :4], 2.0 * plain.codec.normalizer.normalize(raw)[:, :4])
    torch.testing.assert_close(rescaled.codec.normalizer.unnormalize(scaled), raw)
    slope = rescaled.codec.normalizer.log_slope(raw)[0].exp()
    torch.testing.assert_close(
        slope, rescaled.codec.normalizer.factor / rescaled.codec.normalizer.scale
    )


def test_the_far_warning_does_not_depend_on_the_scales_of_fields() -> None:
    for scale in (0.1, 1.0, 10.0):
        rescaled = model(normalizer="limits", field_scales={"observations": scale})
        inside = 0.95 * WALK.observations.max(axis=0)[None]
        assert not warn_far(inside, rescaled)
        with pytest.warns(UserWarning, match="is far outside the training data"):
            assert warn_far(10 * inside, rescaled)
