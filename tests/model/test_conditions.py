"""Conditions of a model: inputs of the network, training, and refused values."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import fit, flat_model, flat_planner, flat_sample, generator, record, tiny_model, walk

from pgdiff import Episodes, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.data import ClassCondition, GoalCondition, ReturnCondition, SegmentDataset
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import full_sequence
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import FullSequence, Pyramid
from pgdiff.diffusion.spacing import KarrasSpacing, UniformSpacing
from pgdiff.training.learner import to_tensors
from pgdiff.trajectory import Condition


def classed(episodes: Episodes, classes: Any) -> Episodes:
    """Return the episodes with a class each."""
    column = np.repeat(np.asarray(classes, np.float32), episodes.lengths)[:, None]
    return replace(episodes, infos={"class": column})


EPISODES = classed(walk(), [0, 2, 1, 2, 0, 1])
CONDITIONS = (ReturnCondition(discount=0.9), GoalCondition(), ClassCondition(classes=3))
MODEL = tiny_model(EPISODES, conditions=CONDITIONS, condition_dropout=0.25)
CONDITION = Condition(
    values={
        "return": torch.tensor([[2.0], [5.0]]),
        "goal": torch.tensor([[0.5, -0.5], [0.1, 0.3]]),
        "class": torch.tensor([[2], [0]]),
    }
)


def draw(model: TrajectoryDiffusion, *, batch: int = 2, **options: Any) -> Tensor:
    return flat_sample(model, batch=batch, generators=[generator(0)], steps=4, **options)


def tensors(model: TrajectoryDiffusion, episodes: Episodes, count: int) -> Any:
    return to_tensors(model.dataset(episodes).batch(np.arange(count)), torch.device("cpu"))


class Listener:
    """A network that records its inputs."""

    def __init__(self, model: TrajectoryDiffusion) -> None:
        self.inputs: list[tuple[Any, ...]] = []
        self._handle = model.network.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, arguments: Any) -> None:
        self.inputs.append(arguments)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *error: Any) -> None:
        self._handle.remove()


def encoded() -> Tensor:
    """Return the expected encoding of `CONDITION`, number by number."""
    returns, goal, _ = MODEL.conditions.conditioners
    assert isinstance(returns, ReturnCondition) and isinstance(goal, GoalCondition)
    assert returns.mean is not None and returns.std is not None
    assert goal.mean is not None and goal.std is not None
    rows = []
    for value, place, one_hot in ((2.0, (0.5, -0.5), (0, 0, 1)), (5.0, (0.1, 0.3), (1, 0, 0))):
        where = [(p - m) / s for p, m, s in zip(place, goal.mean, goal.std, strict=True)]
        rows.append([(value - returns.mean) / returns.std, *where, *one_hot, 1.0])
    return torch.tensor(rows)


# ---------------------------------------------------------------------------- inputs of the network


def test_the_network_receives_values_and_presence() -> None:
    x, level = torch.randn(2, 6, 4, generator=generator(1)), torch.full((1, 6), 0.5)
    with Listener(MODEL) as listener, torch.no_grad():
        MODEL.denoise(x, level, CONDITION)
        MODEL.denoise(x, level)
    given, nothing = (context.vector for _, _, context in listener.inputs)
    torch.testing.assert_close(given, encoded())
    assert torch.equal(nothing, torch.zeros(1, 7))


@pytest.mark.parametrize(("weight", "calls"), [(0.0, 2), (1.0, 2), (3.0, 4)])
def test_what_sampling_calls(weight: float, calls: int) -> None:
    with Listener(MODEL) as listener:
        draw(MODEL, condition=CONDITION, classifier_free=ClassifierFree(weight=weight))
    assert [len(x) for x, _, _ in listener.inputs] == [calls] * 4, "one call a step"
    assert all(len(level) == 1 for _, level, _ in listener.inputs)
    expected = {
        0.0: torch.zeros(1, 7),  # shared by all rows
        1.0: encoded(),
        3.0: torch.cat([encoded(), torch.zeros(2, 7)]),
    }
    for _, _, context in listener.inputs:
        torch.testing.assert_close(context.vector, expected[weight])


def test_weights_and_their_short_forms() -> None:
    plain = draw(MODEL, condition=CONDITION)
    assert torch.equal(plain, draw(MODEL, condition=CONDITION, classifier_free=ClassifierFree()))
    without = draw(MODEL)
    zero = draw(MODEL, condition=CONDITION, classifier_free=ClassifierFree(weight=0.0))
    assert torch.equal(without, zero) and not torch.equal(without, plain)
    strong = draw(MODEL, condition=CONDITION, classifier_free=ClassifierFree(weight=3.0))
    assert not torch.equal(strong, plain)


def test_a_condition_of_batch_1_is_for_all() -> None:
    one = Condition(values={name: value[:1] for name, value in CONDITION.values.items()})
    both = Condition(values={k: v[:1].expand(2, -1) for k, v in CONDITION.values.items()})
    torch.testing.assert_close(draw(MODEL, condition=one), draw(MODEL, condition=both))


def test_denoise_is_differentiable_in_the_condition() -> None:
    goal = torch.tensor([[0.5, -0.5]], requires_grad=True)
    condition = Condition(values=dict(CONDITION.values) | {"goal": goal})
    estimate = MODEL.denoise(torch.zeros(2, 6, 4), torch.full((1, 6), 0.5), condition)
    (gradient,) = torch.autograd.grad(estimate.sum(), goal)
    assert gradient.abs().min() > 0


# ----------------------------------------------------------------------------------------- training


def test_training_passes_the_segments_own_values_and_drops_some() -> None:
    count = 390
    batch = tensors(MODEL, EPISODES, count)
    assert batch.condition.shape == (count, 4)
    with Listener(MODEL) as listener:
        MODEL.losses(batch, generator(0))["diffusion"].backward()
    ((_, _, context),) = listener.inputs
    vectors, whole = context.vector, MODEL.conditions.of_batch(batch).vector
    hidden = (vectors == 0).all(dim=1)
    assert torch.equal(hidden, ~context["condition"].present)
    assert torch.equal(vectors[~hidden], whole[~hidden])
    rate = float(hidden.double().mean())
    print(f"\nhidden at dropout 0.25: {rate:.3f} of {count}")
    assert abs(rate - 0.25) < 5 * (0.25 * 0.75 / count) ** 0.5
    assert all(p.grad is not None for p in MODEL.network.parameters())
    MODEL.zero_grad()


def test_losses_draw_from_the_generator_alone() -> None:
    batch = tensors(MODEL, EPISODES, 20)
    before = torch.random.get_rng_state()
    losses = [MODEL.losses(batch, generator(seed))["diffusion"].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_without_conditions_nothing_is_added() -> None:
    model = tiny_model(EPISODES)
    assert isinstance(model.dataset(EPISODES), SegmentDataset)
    with Listener(model) as listener:
        model.losses(tensors(model, EPISODES, 3), generator(0))
        draw(model)
    assert all(len(arguments) == 2 for arguments in listener.inputs)


@pytest.fixture(scope="module")
def forked() -> tuple[TrajectoryDiffusion, Tensor]:
    """Return a trained model of paths that rise (class 1) or fall (class 0) from one point."""
    rng = np.random.default_rng(0)
    slope = np.tile([-1.0, 1.0], 50)
    along = np.linspace(0, 1, 6)
    steep = slope * rng.uniform(0.7, 1.0, 100)
    ways = np.stack([np.tile(along, (100, 1)), steep[:, None] * along], axis=-1)
    episodes = record(ways.reshape(-1, 2), np.zeros((600, 1)), np.zeros(600), lengths=[6] * 100)
    episodes = classed(episodes, (slope > 0).astype(np.float32))
    model = flat_model(
        episodes,
        horizon=6,
        denoiser=TransformerConfig(width=32, depth=2),
        conditions=[ClassCondition(classes=2)],
        condition_dropout=0.2,
    )
    began = time.perf_counter()
    fit(model, episodes, steps=300)
    print(f"\ntrained in {time.perf_counter() - began:.1f} s")
    return model, torch.tensor([[0.0, 0.0]])


def risen(model: TrajectoryDiffusion, start: Tensor, **options: Any) -> Tensor:
    x = flat_sample(
        model,
        batch=400,
        generators=[generator(5)],
        known=model.inpaint(start.expand(400, -1)),
        **options,
    )
    return model.codec.decode(x).observations[:, -1, 1]


def test_samples_follow_the_class(forked: tuple[TrajectoryDiffusion, Tensor]) -> None:
    model, start = forked
    share = {}
    for weight in (1.0, 3.0):
        for number in (0, 1):
            condition = Condition(values={"class": torch.tensor([[number]])})
            weighting = ClassifierFree(weight=weight)
            end = risen(model, start, condition=condition, classifier_free=weighting)
            share[weight, number] = float(((end > 0) == bool(number)).double().mean())
    both = float((risen(model, start) > 0).double().mean())
    print(f"\nfollow the class: {share}; risen without a condition: {both:.3f}")
    assert min(share.values()) > 0.95
    assert 0.25 < both < 0.75


def test_each_row_has_its_own_class(forked: tuple[TrajectoryDiffusion, Tensor]) -> None:
    model, start = forked
    classes = torch.randint(2, (400, 1), generator=generator(3))
    end = risen(model, start, condition=Condition(values={"class": classes}))
    share = float(((end > 0) == (classes[:, 0] == 1)).double().mean())
    print(f"\nfollow their own class: {share:.3f}")
    assert share > 0.95


def test_same_seed_same_samples(forked: tuple[TrajectoryDiffusion, Tensor]) -> None:
    model, start = forked
    condition = Condition(values={"class": torch.tensor([[1]])})
    options = {"condition": condition, "classifier_free": ClassifierFree(weight=2.0, rescale=0.5)}
    assert torch.equal(risen(model, start, **options), risen(model, start, **options))


# ------------------------------------------------------------------------------------------- saving


def test_a_folder_brings_the_conditions_back(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())["learner"]
    assert [part["name"] for part in config["conditions"]["conditioners"]] == [
        "return",
        "goal",
        "class",
    ]
    loaded = TrajectoryDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.conditions == MODEL.conditions and loaded.conditions.dropout == 0.25
    options = {"condition": CONDITION, "classifier_free": ClassifierFree(weight=2.0)}
    assert torch.equal(draw(loaded, **options), draw(MODEL, **options))


# ----------------------------------------------------------------------------------------- levels


def test_the_default_is_the_full_sequence_bit_for_bit() -> None:
    model = tiny_model()
    for steps in (1, 7, 20):
        options: dict[str, Any] = {"batch": 2, "steps": steps}
        matrix = full_sequence(steps=steps, tokens=6)
        expected = flat_sample(model, generators=[generator(0)], level_schedule=matrix, **options)
        for same in ({}, {"spacing": UniformSpacing(), "level_schedule": FullSequence()}):
            x = flat_sample(model, generators=[generator(0)], **same, **options)
            assert torch.equal(expected, x)


def test_a_level_schedule_takes_the_spacings_column() -> None:
    model = tiny_model()
    seen: list[Tensor] = []
    with pytest.warns(UserWarning, match="one level for the whole sequence"):
        draw(
            model,
            spacing=KarrasSpacing(),
            level_schedule=Pyramid(slope=2.0),
            callback=lambda step: seen.append(step.level_to[0]),
        )
    column = KarrasSpacing().levels(4, noise_schedule=model.process.noise_schedule).float()
    for token in range(6):
        begun = torch.tensor([float(row[token]) for row in seen])
        assert torch.equal(begun[2 * token : 2 * token + 4], column[1:])
        assert (begun[: 2 * token] == 1).all() and (begun[2 * token + 4 :] == 0).all()


# ----------------------------------------------------------------------------------------- refusals


def without(name: str) -> Condition:
    return Condition(values={k: v for k, v in CONDITION.values.items() if k != name})


def changed(**values: Any) -> Condition:
    return Condition(values=dict(CONDITION.values) | values)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (without("goal"), r"must give all of \['return', 'goal', 'class'\] .* Got no 'goal'"),
        (changed(goals=torch.zeros(2, 2)), r"must name one of .* mean 'goal'\? Got 'goals'"),
        (changed(goal=torch.zeros(2, 3)), r"`goal` must have shape \[2, 2\]. Got \[2, 3\]"),
        (changed(**{"class": torch.tensor([[3]])}), r"`class` must be an integer in \[0, 3\)"),
        (
            Condition(values={k: v[:1].expand(3, -1) for k, v in CONDITION.values.items()}),
            "`condition` must have the batch size 2, or 1. Got 3",
        ),
    ],
)
def test_conditions_that_do_not_fit_are_named(condition: Condition, message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        draw(MODEL, condition=condition)
    with pytest.raises(PgdiffError, match=message):
        MODEL.denoise(torch.zeros(2, 6, 4), torch.full((1, 6), 0.5), condition)


def test_a_model_without_conditions_takes_none() -> None:
    with pytest.raises(PgdiffError, match=r"must be None for a model without conditions.*'return'"):
        draw(tiny_model(), condition=CONDITION)


def test_classifier_free_needs_a_condition() -> None:
    for model in (MODEL, tiny_model()):
        with pytest.raises(PgdiffError, match="`condition` must be given with `classifier_free`"):
            draw(model, classifier_free=ClassifierFree())


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named() -> None:
    for settings, message in (
        ({"conditions": [GoalCondition(), GoalCondition()]}, "must have different names"),
        ({"conditions": ["goal"]}, "`conditions` must be conditions such as .* Got a str"),
        (
            {"conditions": [ClassCondition(classes=2)]},
            r"`infos/class` .* \[0, 2\). Got 2 in row 80",
        ),
        ({"conditions": CONDITIONS, "condition_dropout": 1.5}, "`dropout` must be"),
    ):
        with pytest.raises(PgdiffError, match=message):
            flat_model(EPISODES, horizon=4, **settings)


def test_a_horizon_that_the_network_cannot_take_is_refused_at_once() -> None:
    class Even(TransformerConfig):
        def check_tokens(self, tokens: int) -> None:
            if tokens % 2:
                raise PgdiffError(f"`horizon` must be even. Got {tokens}.")

    flat_model(EPISODES, horizon=4, denoiser=Even(width=16, depth=1))
    with pytest.raises(PgdiffError, match=r"`horizon` must be even\. Got 5"):
        flat_model(EPISODES, horizon=5, denoiser=Even(width=16, depth=1))


# ------------------------------------------------------------------------- untrained conditions


def test_estimates_that_were_never_trained_are_refused() -> None:
    always = tiny_model(EPISODES, conditions=CONDITIONS, condition_dropout=0.0)
    never = tiny_model(EPISODES, conditions=CONDITIONS, condition_dropout=1.0)
    batch = tensors(always, EPISODES, 2)
    for weight in (0.0, 3.0):
        with pytest.raises(PgdiffError, match=r"`classifier_free` .*dropout of 0.*weight"):
            draw(always, condition=CONDITION, classifier_free=ClassifierFree(weight=weight))
    level = torch.full((1, 6), 0.5)
    for call in (
        lambda: draw(always),
        lambda: always.denoise(torch.zeros(2, 6, 4), level),
        lambda: always.log_likelihood(batch, steps=1),
        lambda: flat_planner(
            tiny_model(conditions=[ReturnCondition()], condition_dropout=0.0)
        ).plan(np.zeros(4)),
    ):
        with pytest.raises(PgdiffError, match=r"`condition` must give .*dropout of 0"):
            call()
    with pytest.raises(PgdiffError, match=r"`condition` must be None .*dropout of 1"):
        draw(never, condition=CONDITION)
    draw(always, condition=CONDITION, classifier_free=ClassifierFree(weight=1.0))
    draw(never, condition=CONDITION, classifier_free=ClassifierFree(weight=0.0))
    draw(never)
