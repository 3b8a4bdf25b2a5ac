"""A token field from outside the package: one class, from the recording to the samples."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pgdiff import (
    Episodes,
    Layout,
    PgdiffError,
    Planner,
    Sampling,
    Segment,
    Tokens,
    Trainer,
    TrajectoryDiffusion,
    load_episodes,
    write_hdf5,
)
from pgdiff.core.registry import register
from pgdiff.data import ReturnCondition, SegmentDataset
from pgdiff.data.fields import ActionField, TokenField, Windows, token_field
from pgdiff.data.selection import selected
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import GradientGuide
from pgdiff.testing import example_episodes

TINY = TransformerConfig(width=16, depth=1, heads=2)


@register("token_field", "costs")
class Costs(TokenField):
    """The cost of each token's row."""

    name, infos, scalar = "costs", ("cost",), True

    def recorded(self, episodes: Episodes, *, stride: int) -> tuple[np.ndarray, int]:
        return selected(episodes, "infos/cost"), 1

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Any:
        return lambda windows: episodes.infos["cost"][windows.rows, 0]


@register("token_field", "last_two_actions")
class LastTwoActions(ActionField):
    """The action at each token's row and the one before, in the same episode."""

    name = "last_two_actions"

    def count(self, stride: int) -> int:
        return 2

    def recorded(self, episodes: Episodes, *, stride: int) -> tuple[np.ndarray, int]:
        return selected(episodes, "actions"), 2

    def gather(self, episodes: Episodes, *, stride: int, discount: float) -> Any:
        def read(windows: Windows) -> np.ndarray:
            before = np.maximum(windows.rows - 1, 0)
            pair = [episodes.actions[before], episodes.actions[windows.rows]]
            return np.concatenate(pair, axis=-1)

        return read


class Cheap(GradientGuide):
    """Low costs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(name="cheap", **options)

    def objective(self, segment: Segment, level: torch.Tensor) -> torch.Tensor:
        return -segment.fields["costs"].sum((1, 2))


def recording() -> Episodes:
    plain = example_episodes()
    cost = plain.observations[:, :1] ** 2
    return Episodes.from_arrays(**plain.fields(), infos={"cost": cost})


def test_a_model_learns_and_generates_the_field(tmp_path: Path) -> None:
    episodes = recording()
    tokens = Tokens(horizon=8, fields=("observations", "costs"), normalizer="standard")
    model = TrajectoryDiffusion.from_episodes(
        episodes, tokens, denoiser=TINY, conditions=[ReturnCondition()], seed=0
    )
    assert model.codec.spec.sizes == {"observations": 4, "costs": 1}
    batch = model.dataset(episodes).batch(np.arange(3))
    rows, _ = model.codec.dataset(episodes).index.rows(np.arange(3))
    assert np.array_equal(batch.costs, episodes.infos["cost"][rows, 0])
    assert batch.condition.shape == (3, 1) and batch.rewards.shape == (3, 0)
    again = pickle.loads(pickle.dumps(batch))
    assert type(again) is type(batch) and np.array_equal(again.costs, batch.costs)

    Trainer(steps=2, batch_size=4, validation=0.0).fit(model, episodes)
    low, free = (
        model.sample(4, Sampling(steps=3), guides=guides, seed=0).segment
        for guides in ([Cheap(scale=5.0)], [])
    )
    assert free.fields["costs"].shape == (4, 8, 1)
    assert low.fields["costs"].mean() < free.fields["costs"].mean()

    model.save_pretrained(tmp_path / "model")
    loaded = TrajectoryDiffusion.from_pretrained(tmp_path / "model")
    assert torch.equal(
        loaded.sample(4, Sampling(steps=3), seed=0).x, model.sample(4, Sampling(steps=3), seed=0).x
    )
    planner = Planner(loaded, [Cheap(scale=0.1)], candidates=2, sampling=Sampling(steps=2))
    assert planner.plan(episodes.observations[0]).observations.shape == (8, 4)
    with pytest.raises(PgdiffError, match="`fields` must not hold 'costs' to encode a plan"):
        model.codec.as_batch(batch.observations)


def test_recordings_hold_what_the_field_is_read_from(tmp_path: Path) -> None:
    episodes = recording()
    path = write_hdf5(tmp_path / "point.hdf5", episodes)
    for _ in range(2):  # from the file, and from its cache
        assert np.array_equal(load_episodes(path).infos["cost"], episodes.infos["cost"])
    with pytest.raises(PgdiffError, match=r"`infos/coast` is not .*mean 'infos/cost'"):
        Episodes.from_arrays(**example_episodes().fields(), infos={"coast": episodes.infos["cost"]})


def test_a_field_of_actions_is_treated_as_actions() -> None:
    episodes = recording()
    fields = ("observations", "last_two_actions")
    codec = Tokens(horizon=4, stride=3, fields=fields, normalizer="arctanh").fit(episodes)
    assert codec.spec.sizes["last_two_actions"] == 4 and codec.spec.action_size == 2
    assert codec.action_range is not None
    assert codec.feature_mask(("actions",)).tolist() == [False] * 4 + [True] * 4
    raw = codec.decode(1e3 * torch.randn(2, 4, 8))
    low, high = (torch.tensor(end) for end in codec.action_range)
    assert raw.every_action is not None and raw.every_action.shape == (2, 8, 2)
    assert ((raw.every_action >= low) & (raw.every_action <= high)).all()


def test_every_field_is_normalised_with_the_statistics_that_it_states() -> None:
    episodes = example_episodes()
    fields = ("observations", "previous_actions", "next_observations", "rewards", "terminals")
    codec = Tokens(horizon=4, stride=2, fields=fields, normalizer="standard").fit(episodes)
    slices, center = codec.layout.slices, codec.normalizer.center
    assert torch.equal(center[slices["next_observations"]], center[slices["observations"]])
    first, second = center[slices["previous_actions"]].chunk(2)
    assert torch.equal(first, second)
    assert center[slices["terminals"]].item() == 0.5, "a flag"
    start = codec.inpaint(torch.zeros(1, 4))
    given = {name for name, where in slices.items() if start.mask[0, 0, where].all()}
    assert given == {"observations", "previous_actions"}
    assert {name for name in fields if token_field(name).given_at_start} == given


def test_a_wrong_field_is_named() -> None:
    cases: list[tuple[Mapping[str, Any], str]] = [
        ({"fields": (("observations", 4), ("cost", 1))}, "`fields` must be .*'costs'"),
        ({"fields": (("observations", 4), ("costs", 2))}, "'costs' the size 1. Got 2"),
        ({"fields": (("costs", 1),)}, "`fields` must hold 'observations'"),
    ]
    for settings, message in cases:
        with pytest.raises(PgdiffError, match=message):
            Layout(horizon=4, **settings)
    with pytest.raises(PgdiffError, match="`fields` must be"):
        SegmentDataset(recording(), 4, 1, fields=("cost",))
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (TokenField,), {"name": "half"})()
    with pytest.raises(PgdiffError, match=r"`name` of a token field .* Got 'mask'"):
        type("Mask", (TokenField,), {"name": "mask"})
