"""Hints: conditions with separate entries of the context, and their use by the network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import fit, flat_model, flat_sample, generator, tiny_model, walk

from pgdiff import Conditioning, Episodes, Planner, TrajectoryDiffusion
from pgdiff.core.context import Context
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.data import HintConditioner, ObservationCondition, ReturnCondition
from pgdiff.denoisers import ResidualMLPConfig, TemporalUnetConfig, TransformerConfig
from pgdiff.diffusion import ClassifierFree
from pgdiff.training.fingerprints import batch_fingerprint
from pgdiff.training.learner import to_tensors
from pgdiff.trajectory import Condition

EPISODES = walk()


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A hint without statistics; each kind below reads a value of its shape."""

    entry: str = ""  # a registered part may have no field `name`

    @property
    def name(self) -> str:
        return self.entry

    def fit(self, episodes: Episodes) -> Any:
        return self

    def check(self, value: Tensor) -> None:
        pass

    def encode(self, value: Tensor) -> Tensor:
        return value

    @property
    def raw_shape(self) -> tuple[int, ...]:
        return self.shape  # type: ignore[attr-defined, no-any-return]


@dataclass(frozen=True, kw_only=True)
class SpeedHint(Raw):
    """Velocity at the end of the segment."""

    entry: str = "speed"
    shape = (2,)

    def reader(self, episodes: Episodes) -> Callable[..., np.ndarray]:
        return lambda rows, mask: episodes.observations[rows[:, -1], 2:]


@dataclass(frozen=True, kw_only=True)
class MapHint(Raw):
    """Two layers of squares, the same for every segment."""

    entry: str = "walls"
    shape = (2, 8, 8)

    def reader(self, episodes: Episodes) -> Callable[..., np.ndarray]:
        return lambda rows, mask: np.zeros((len(rows), *self.shape))


HINTS = (ReturnCondition(discount=0.9), ObservationCondition(), SpeedHint())
SHAPES = {"condition": (2,), "observation": (4,), "speed": (2,)}
MODEL = tiny_model(EPISODES, conditions=HINTS, condition_dropout=0.25)
SPEED = torch.tensor([[0.3, -0.2], [0.1, 0.5]])
FULL = {"return": torch.tensor([[2.0], [5.0]]), "observation": torch.ones(1, 4), "speed": SPEED}


def tensors(model: TrajectoryDiffusion, count: int) -> Any:
    return to_tensors(model.dataset(EPISODES).batch(np.arange(count)), torch.device("cpu"))


def contexts(model: TrajectoryDiffusion, call: Callable[[], Any]) -> list[Context]:
    """Contexts with which the network is called."""
    seen: list[Context] = []

    def note(module: nn.Module, arguments: Any) -> None:
        seen.append(arguments[2])

    handle = model.network.register_forward_pre_hook(note)
    call()
    handle.remove()
    return seen


def denoised(values: dict[str, Any], batch: int = 2) -> Context:
    x, level = torch.zeros(batch, 6, 4), torch.full((1, 6), 0.5)
    (context,) = contexts(MODEL, lambda: MODEL.denoise(x, level, Condition(values=values)))
    return context


# -------------------------------------------------------------------------------------- the context


def test_each_hint_has_an_entry_of_its_name() -> None:
    assert all(isinstance(c, HintConditioner) for c in HINTS[1:])
    assert [c.name for c in MODEL.conditions.joint] == ["return"]
    assert MODEL.conditions.shapes == SHAPES
    context = denoised(FULL)
    assert {name: context[name].shape for name in context.names} == SHAPES
    assert all(context[name].present.all() for name in context.names)
    assert torch.equal(context["speed"].value, SPEED)
    assert context.vector is not None and context.vector.shape == (2, 2 + (4 + 1) + (2 + 1))


def test_any_hints_may_be_given() -> None:
    for names in (["speed"], ["observation"], ["observation", "speed"], ["return"], list(FULL)):
        context = denoised({name: FULL[name] for name in names})
        for name in SHAPES:
            given = "return" if name == "condition" else name
            assert bool(context[name].present.all()) == (given in names)
            assert bool(context[name].value.any()) == (given in names)


def test_the_observation_is_that_of_the_first_row() -> None:
    batch = tensors(MODEL, 30)
    raw = batch.hints["observation"]
    assert torch.equal(raw, batch.observations[:, 0])
    condition = MODEL.conditions.hints[0]
    assert isinstance(condition, ObservationCondition)
    rows = torch.from_numpy(EPISODES.observations.copy()).double()
    mean, std = rows.mean(dim=0), rows.std(dim=0, correction=0)
    encoded = MODEL.conditions.of_batch(batch)["observation"].value
    torch.testing.assert_close(encoded, ((raw - mean) / std).float(), rtol=1e-4, atol=1e-5)
    assert condition.fit(walk(seed=1)) == condition, "given statistics are kept"
    present = torch.randn(3, 4, generator=generator(0))
    values = MODEL.conditions.from_plan(present, {"speed": SPEED})
    assert set(values) == {"observation", "speed"} and torch.equal(values["observation"], present)
    given = MODEL.conditions.from_plan(present, {"observation": 2 * present})
    assert torch.equal(given["observation"], 2 * present)


# ------------------------------------------------------------------------------------------ dropout


def test_hints_are_hidden_independently() -> None:
    count, share = 20_000, 0.3
    conditions = Conditioning(
        conditioners=[ObservationCondition(mean=(0.0,), std=(1.0,)), SpeedHint()], dropout=share
    )
    values = {"observation": torch.ones(count, 1), "speed": torch.ones(count, 2)}
    context = conditions.context(Condition(values=values), batch=count, like=torch.zeros(0))
    assert context is not None
    kept = conditions.drop(context, generator=generator(0))
    hidden = {name: ~kept[name].present for name in kept.names}
    for name in kept.names:
        assert torch.equal(kept[name].value == 0, hidden[name][:, None].expand_as(kept[name].value))
    first, second = hidden["observation"], hidden["speed"]
    for got, expected in (
        (first, share),
        (second, share),
        (first & second, share**2),
        (first & ~second, share * (1 - share)),
    ):
        rate = float(got.double().mean())
        print(f"\nrate {rate:.4f} of {expected:.4f}")
        assert abs(rate - expected) < 5 * (expected * (1 - expected) / count) ** 0.5


def test_each_rank_hides_its_rows_of_the_batch() -> None:
    context = MODEL.conditions.of_batch(tensors(MODEL, 40))
    whole = MODEL.conditions.drop(context, generator=generator(3))
    for rows in (slice(0, 13), slice(13, 40)):
        part = MODEL.conditions.drop(
            context.rows(rows), generator=generator(3), rows=rows, total=40
        )
        assert part.same(whole.rows(rows))
    assert whole.same(MODEL.conditions.drop(context, generator=generator(3)))
    assert not whole.same(MODEL.conditions.drop(context, generator=generator(4)))
    for share, same in ((0.0, context), (1.0, context.drop())):
        conditions = Conditioning(conditioners=MODEL.conditions.conditioners, dropout=share)
        assert conditions.drop(context, generator=generator(0)).same(same)


def test_training_shows_each_segment_its_own_values() -> None:
    batch = tensors(MODEL, 390)
    whole = MODEL.conditions.of_batch(batch)
    (context,) = contexts(MODEL, lambda: MODEL.losses(batch, generator(0)))
    for name in SHAPES:
        present = context[name].present
        assert torch.equal(context[name].value[present], whole[name].value[present])
        assert abs(float((~present).double().mean()) - 0.25) < 5 * (0.25 * 0.75 / 390) ** 0.5
    model = flat_model(
        EPISODES, horizon=4, conditions=HINTS, denoiser=TransformerConfig(width=16, depth=1)
    )
    fit(model, EPISODES, steps=2)
    other = batch._replace(hints=dict(batch.hints) | {"speed": batch.hints["speed"] + 1})
    assert batch_fingerprint(batch) != batch_fingerprint(other)


# ----------------------------------------------------------------------------------------- sampling


def draw(values: dict[str, Any] | None, **options: Any) -> Tensor:
    condition = None if values is None else Condition(values=values)
    return flat_sample(
        MODEL, batch=2, generators=[generator(0)], steps=3, condition=condition, **options
    )


def test_classifier_free_contrasts_named_entries() -> None:
    weighting = ClassifierFree(weight=3.0, names=["speed"])
    calls = contexts(MODEL, lambda: draw(FULL, classifier_free=weighting))
    given = denoised(FULL)
    assert len(calls) == 3
    for call in calls:
        assert call.rows(slice(0, 2)).same(given.expand(2))
        assert call.rows(slice(2, 4)).same(given.expand(2).drop(["speed"]))
    some = {"return": FULL["return"], "observation": FULL["observation"]}
    zero = draw(FULL, classifier_free=ClassifierFree(weight=0.0, names=["speed"]))
    torch.testing.assert_close(zero, draw(some))
    every = ClassifierFree(weight=3.0, names=tuple(SHAPES))
    torch.testing.assert_close(
        draw(FULL, classifier_free=every), draw(FULL, classifier_free=ClassifierFree(weight=3.0))
    )
    assert not torch.equal(draw(FULL), draw(FULL, classifier_free=weighting))


def test_a_planner_takes_hints() -> None:
    planner = Planner(MODEL, condition={"speed": (0.3, -0.2)}, candidates=2, device="cpu")
    calls = contexts(MODEL, lambda: planner.plan(np.zeros(4, np.float32), seed=0))
    for call in calls:
        torch.testing.assert_close(call["speed"].value[:1], SPEED[:1])
        assert call["speed"].present.all() and not call["condition"].present.any()


@pytest.mark.usefixtures("own_registry")
def test_a_folder_brings_hints_back(tmp_path: Path) -> None:
    register("condition", "speed")(SpeedHint)
    MODEL.save_pretrained(tmp_path / "model")
    loaded = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.conditions == MODEL.conditions
    x, level = torch.zeros(2, 6, 4), torch.full((1, 6), 0.5)
    condition = Condition(values=FULL)
    assert torch.equal(loaded.denoise(x, level, condition), MODEL.denoise(x, level, condition))


# ----------------------------------------------------------------------------------------- refusals


def test_networks_of_vectors_refuse_maps() -> None:
    for denoiser, name in (
        (TransformerConfig(width=16, depth=1, heads=2), "Transformer"),
        (TemporalUnetConfig(width=8, mults=(1, 2)), "TemporalUnet"),
        (ResidualMLPConfig(width=16, depth=1, embedding=8), "ResidualMLP"),
    ):
        with pytest.raises(
            PgdiffError,
            match=rf"`denoiser` must read the hint 'walls' of the shape \[2, 8, 8\]. Got {name}, .*"
            "vectors only. Choose another denoiser",
        ):
            flat_model(EPISODES, horizon=4, conditions=[MapHint()], denoiser=denoiser)


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_named() -> None:
    for values, message in (
        ({"speed": torch.zeros(2, 3)}, r"`speed` must have shape \[2, 2\]. Got \[2, 3\]"),
        ({"speed": torch.zeros(2, 2, 1)}, r"`speed` must have shape \[2, 2\]. Got \[2, 2, 1\]"),
        ({"sped": torch.zeros(2, 2)}, "must name one of .* mean 'speed'"),
        ({"speed": torch.zeros(3, 2)}, "`condition` must have the batch size 2, or 1. Got 3"),
    ):
        with pytest.raises(PgdiffError, match=message):
            denoised(values)
    for name in ("return", "sped"):  # the joint conditions are called "condition"
        with pytest.raises(PgdiffError, match=r"`classifier_free.names` must be one of"):
            draw(FULL, classifier_free=ClassifierFree(weight=2.0, names=[name]))
    for conditioners, message in (
        ([SpeedHint(entry="condition")], "must not contain a hint named 'condition'"),
        ([SpeedHint(), SpeedHint()], "must have different names"),
    ):
        with pytest.raises(PgdiffError, match=message):
            Conditioning(conditioners=conditioners)
    for settings, message in (
        ({"mean": (0.0,), "std": (0.0,)}, "`std` must be"),
        ({"mean": (0.0, 1.0), "std": (1.0,)}, "`std` must have 2 numbers like `mean`. Got 1"),
    ):
        with pytest.raises(PgdiffError, match=message):
            ObservationCondition(**settings)
    with pytest.raises(PgdiffError, match="`mean` and `std` of the condition 'observation'"):
        ObservationCondition().encode(torch.zeros(1, 4))


def test_hints_that_were_never_absent_are_required() -> None:
    always = tiny_model(EPISODES, conditions=HINTS, condition_dropout=0.0)
    x, level = torch.zeros(2, 6, 4), torch.full((1, 6), 0.5)
    always.denoise(x, level, Condition(values=FULL))
    for name in FULL:
        values = {key: value for key, value in FULL.items() if key != name}
        with pytest.raises(PgdiffError, match=rf"must give all of .*dropout of 0.*no '{name}'"):
            always.denoise(x, level, Condition(values=values))
