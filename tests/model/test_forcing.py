"""Sampling with a model that has a level for each token."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import flat_model, flat_rollout, flat_sample, generator, tiny_model, walk

from pgdiff import Condition, Segment, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.data import ReturnCondition
from pgdiff.denoisers import TemporalUnetConfig, TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    DDPM,
    DPMSolver,
    Guidance,
    Heun,
    HistoryGuidance,
    IndependentLevels,
    Inpainting,
    Measurement,
    MonteCarlo,
    Sampling,
    Solver,
)
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    LevelSchedule,
    Pyramid,
    Trapezoid,
)
from pgdiff.guides import bind

CAUSAL = TransformerConfig(width=16, depth=2, heads=2, attention="causal")
SCHEDULES: dict[str, LevelSchedule] = {
    "full": FullSequence(),
    "pyramid": Pyramid(slope=1.0),
    "autoregressive": Autoregressive(),
    "trapezoid": Trapezoid(slope=2.0),
}


def model(**options: Any) -> TrajectoryDiffusion:
    return tiny_model(**({"denoiser": CAUSAL, "level_distribution": IndependentLevels()} | options))


MODEL = model()


def start(which: TrajectoryDiffusion = MODEL, *, rows: int = 4) -> Inpainting:
    return which.inpaint(torch.linspace(-0.5, 0.5, 4 * rows).reshape(rows, 4))


def draw(which: TrajectoryDiffusion = MODEL, *, seed: int = 0, **options: Any) -> Tensor:
    settings: dict[str, Any] = {"known": start(which), "steps": 4} | options
    return flat_sample(which, batch=4, generators=[generator(seed)], **settings)


@pytest.mark.parametrize("noise_schedule", SCHEDULES)
@pytest.mark.parametrize("solver", [DDIM(), DDPM(), Heun(), DPMSolver()], ids=repr)
def test_cached_sampling_is_uncached_sampling(solver: Solver, noise_schedule: str) -> None:
    options: dict[str, Any] = {"solver": solver, "level_schedule": SCHEDULES[noise_schedule]}
    cached, whole = draw(**options), draw(**options, cache=False)
    error = float((cached - whole).abs().max())
    print(f"\n{solver}, {noise_schedule}: {error:.1e}")
    assert error < 1e-5


def test_guided_sampling_is_cached_too() -> None:
    """Gradients go through the denoiser, but not through final tokens."""
    guide = Guidance(
        objective=lambda x, level: -x[:, -1].square().sum(dim=-1), gradient_at="denoiser", scale=0.5
    )
    options: dict[str, Any] = {
        "guidance": (guide,),
        "level_schedule": SCHEDULES["pyramid"],
        "steps": 6,
    }
    cached, whole = draw(**options), draw(**options, cache=False)
    assert (cached - whole).abs().max() < 1e-5
    assert (cached - draw(level_schedule=SCHEDULES["pyramid"], steps=6)).abs().max() > 1e-3


def test_a_token_that_waits_and_moves_again_is_guided_like_any_other() -> None:
    """Late tokens first: early tokens wait for two rows, but are not final."""
    rows = [[1] * 6, [1, 1, 1, 0.5, 0.5, 0.5], [1, 1, 1, 0, 0, 0], [0.5] * 3 + [0] * 3, [0] * 6]
    guide = Guidance(
        objective=lambda x, level: -x.square().sum(dim=(1, 2)), gradient_at="denoiser", scale=0.5
    )
    options: dict[str, Any] = {"level_schedule": torch.tensor(rows).float(), "guidance": (guide,)}
    options["known"] = None
    cached, whole = draw(**options), draw(**options, cache=False)
    assert (cached - whole).abs().max() < 1e-5


@pytest.mark.parametrize("noise_schedule", ["pyramid", "autoregressive"])
def test_only_what_is_needed_is_computed(
    noise_schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the tokens per trajectory that pass through the network."""
    counts = []
    plain = type(MODEL.network)._transform

    def counting(self: Any, x: Tensor, *rest: Any) -> Any:
        counts.append(x.shape[1])
        return plain(self, x, *rest)

    monkeypatch.setattr(type(MODEL.network), "_transform", counting)
    found = []
    for cache in (False, True):
        counts.clear()
        draw(level_schedule=SCHEDULES[noise_schedule], steps=10, cache=cache)
        found.append(sum(counts))
    print(f"\n{noise_schedule}: {found[0]} tokens without a cache, {found[1]} with one")
    if (
        noise_schedule == "autoregressive"
    ):  # the first token once, all others 10 times and once when clean
        assert found[1] == 1 + 5 * 10 + 4
    assert found[1] < 0.8 * found[0]


def test_looking_on_changes_nothing() -> None:
    """This also holds if estimates are rescaled by the spread of all tokens."""
    conditioned = model(conditions=[ReturnCondition()])
    condition = Condition(values={"return": torch.tensor([[1.0]])})
    options: dict[str, Any] = {
        "level_schedule": Pyramid(slope=2.0),
        "condition": condition,
        "classifier_free": ClassifierFree(weight=3.0, rescale=0.7),
    }
    seen: list[Any] = []
    torch.testing.assert_close(
        draw(conditioned, **options),
        draw(conditioned, **options, callback=seen.append),
        rtol=0,
        atol=1e-5,
    )
    assert seen


def test_futures_without_a_gradient_through_the_denoiser_are_warned_of() -> None:
    class Right:
        name, scale = "right", 0.1

        def __init__(self, gradient_at: str) -> None:
            self.gradient_at = gradient_at

        def objective(self, segment: Segment, level: Tensor) -> Tensor:
            return segment.observations[:, -1, 0]

    options: dict[str, Any] = {"level_schedule": Pyramid(), "monte_carlo": MonteCarlo(futures=2)}
    with pytest.warns(UserWarning, match="`monte_carlo` lets late tokens"):
        draw(guidance=[bind(Right("x0"), MODEL)], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(guidance=[bind(Right("denoiser"), MODEL)], **options)


def test_equal_columns_are_the_full_sequence() -> None:
    matrix = MODEL.level_matrix(Sampling(steps=5))
    rows = matrix[:, None].expand(-1, 4, -1)
    torch.testing.assert_close(draw(level_schedule=rows), draw(steps=5), rtol=0, atol=1e-5)


def test_a_causal_model_plans_fewer_tokens() -> None:
    for noise_schedule in SCHEDULES.values():
        known = start()
        short = Inpainting(known.mask[:, :3], known.values[:, :3])
        x = draw(horizon=3, known=short, level_schedule=noise_schedule)
        assert x.shape == (4, 3, 4) and torch.equal(x[:, 0], known.values[:, 0])
        assert torch.equal(x, draw(horizon=3, known=known, level_schedule=noise_schedule))
    mask = start().mask.clone()
    mask[:, 4, 1] = True
    with pytest.raises(PgdiffError, match=r"must include all given tokens.* token 4 is given too"):
        draw(horizon=3, known=Inpainting(mask, start().values))


def test_a_shorter_model_is_the_same_network() -> None:
    short = MODEL.with_horizon(3)
    assert short.codec.tokens == 3 and MODEL.with_horizon(6) is MODEL
    x, level = torch.randn(2, 3, 4, generator=generator(0)), torch.full((1, 3), 0.4)
    assert torch.equal(short.denoise(x, level), MODEL.denoise(x, level))
    with pytest.raises(PgdiffError, match="`horizon` must be at most the 6 tokens"):
        MODEL.with_horizon(7)
    with pytest.raises(PgdiffError, match="unless its attention is 'causal'"):
        tiny_model().with_horizon(3)


def test_settings_reach_the_sampling() -> None:
    plain = draw(level_schedule=SCHEDULES["pyramid"])
    for options in (
        {"stabilization": 0.2},
        {"observed": Measurement(start().mask, start().values, 0.3), "known": None},
    ):
        assert (draw(level_schedule=SCHEDULES["pyramid"], **options) - plain).abs().max() > 1e-4
    guide = Guidance(
        objective=lambda x, level: x.pow(3).sum(dim=(1, 2)), gradient_at="denoiser", scale=0.05
    )
    once = draw(level_schedule=SCHEDULES["pyramid"], guidance=(guide,))
    many = draw(level_schedule=SCHEDULES["pyramid"], guidance=(guide,), monte_carlo=MonteCarlo())
    assert (once - many).abs().max() > 1e-4


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_views_and_futures_of_a_model_with_a_condition(shared: bool, weight: float) -> None:
    """Each sampled row keeps its condition."""
    which = model(conditions=[ReturnCondition()])
    condition = Condition(values={"return": torch.tensor([[0.0], [1.0], [2.0], [3.0]])})
    mask = torch.zeros(1, 6, 4, dtype=torch.bool)
    mask[:, :3] = True
    known = Inpainting(mask, torch.linspace(-0.5, 0.5, 96).reshape(4, 6, 4))
    guide = Guidance(
        objective=lambda x, level: x.pow(3).sum(dim=(1, 2)), gradient_at="denoiser", scale=0.05
    )
    options: dict[str, Any] = {
        "known": known,
        "level_schedule": Pyramid(),
        "history": HistoryGuidance.fractional(1.5, level=0.4),
        "guidance": (guide,),
        "monte_carlo": MonteCarlo(futures=2, shared=shared),
        "classifier_free": ClassifierFree(weight=weight),
    }
    sources = [generator(seed) for seed in range(4)]
    together = flat_sample(
        which, batch=4, generators=sources, condition=condition, steps=4, **options
    )
    for row in range(4):
        alone = flat_sample(
            which,
            batch=1,
            generators=[generator(row)],
            condition=Condition(values={"return": condition.values["return"][row : row + 1]}),
            steps=4,
            **(options | {"known": Inpainting(mask, known.values[row : row + 1])}),
        )
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------- roll-outs


OBSERVATIONS = torch.linspace(-0.5, 0.5, 12).reshape(3, 4)


@pytest.mark.parametrize("tokens", [1, 6, 7, 60])
@pytest.mark.parametrize("context", [1, None, 5])
def test_rollouts_have_any_length(tokens: int, context: int | None) -> None:
    options: dict[str, Any] = {"steps": 2, "level_schedule": Pyramid(), "context": context}
    made = flat_rollout(MODEL, OBSERVATIONS, tokens=tokens, **options).observations
    assert made.shape == (3, tokens, 4) and torch.isfinite(made).all()
    torch.testing.assert_close(made[:, 0], OBSERVATIONS, rtol=0, atol=1e-5)
    again = flat_rollout(MODEL, OBSERVATIONS, tokens=tokens, **options).observations
    assert torch.equal(made, again)
    if tokens > 1:
        other = flat_rollout(MODEL, OBSERVATIONS, tokens=tokens, seed=1, **options).observations
        assert not torch.equal(made, other)


@pytest.mark.parametrize(("horizon", "context"), [(4, None), (3, None), (2, None), (3, 1)])
def test_windows_may_be_shorter_than_the_models(horizon: int, context: int | None) -> None:
    """A window equals that of a model of its horizon; half of it is the history by default."""
    options: dict[str, Any] = {"tokens": 15, "steps": 2, "level_schedule": Pyramid()}
    made = flat_rollout(MODEL, OBSERVATIONS, horizon=horizon, context=context, **options)
    half = horizon // 2 if context is None else context
    same = flat_rollout(MODEL.with_horizon(horizon), OBSERVATIONS, context=half, **options)
    assert made.observations.shape == (3, 15, 4)
    assert torch.equal(made.observations, same.observations)


def test_numpy_goes_in_as_well() -> None:
    made = flat_rollout(MODEL, OBSERVATIONS.numpy().astype(np.float64), tokens=8, steps=2)
    same = flat_rollout(MODEL, OBSERVATIONS, tokens=8, steps=2)
    assert torch.equal(made.observations, same.observations)


def test_a_longer_rollout_begins_as_a_shorter_one() -> None:
    short = flat_rollout(MODEL, OBSERVATIONS, tokens=10, steps=2).observations
    long = flat_rollout(MODEL, OBSERVATIONS, tokens=30, steps=2).observations
    assert torch.equal(long[:, :10], short)


@pytest.mark.parametrize("arrivals", [[0, 0, 0], [2, 4, 3], [4, 13, 8], [25, 7, 29]])
def test_a_rollout_ends_where_all_have_arrived(arrivals: list[int]) -> None:
    """The result is the beginning of the full roll-out, and no further window is sampled."""
    options: dict[str, Any] = {"tokens": 30, "steps": 2, "context": 3}
    windows: list[int] = []

    def until(segment: Segment) -> Tensor:
        windows.append(segment.observations.shape[1])
        place = torch.arange(windows[-1])
        return place >= torch.tensor(arrivals)[:, None]

    made = flat_rollout(MODEL, OBSERVATIONS, until=until, **options).observations
    whole = flat_rollout(MODEL, OBSERVATIONS, **options).observations
    assert torch.equal(made, whole[:, : max(arrivals) + 1])
    assert windows[0] == 6 and windows[-1] <= max(max(arrivals) + 3, 6)


def test_a_rollout_that_never_arrives_has_all_its_tokens() -> None:
    options: dict[str, Any] = {"tokens": 20, "steps": 2}
    whole = flat_rollout(MODEL, OBSERVATIONS, **options).observations
    for arrived in (False, torch.tensor([True, True, False])[:, None]):
        made = flat_rollout(
            MODEL,
            OBSERVATIONS,
            until=lambda s, arrived=arrived: torch.ones(s.observations.shape[:2]).bool() & arrived,
            **options,
        )
        assert torch.equal(made.observations, whole)


def test_rollouts_are_guided_window_by_window() -> None:
    guide = Guidance(
        objective=lambda x, level: x[..., 0].sum(dim=1), gradient_at="denoiser", scale=0.3
    )
    options: dict[str, Any] = {"tokens": 14, "context": 3, "steps": 4, "level_schedule": Pyramid()}
    plain = flat_rollout(MODEL, OBSERVATIONS, **options).observations
    guided = flat_rollout(MODEL, OBSERVATIONS, guidance=[guide], **options).observations
    for window in (slice(1, 6), slice(6, 9), slice(9, 12)):
        assert guided[:, window, 0].mean() > plain[:, window, 0].mean()


def test_views_of_the_history_count_in_later_windows() -> None:
    plain, guided = (
        flat_rollout(MODEL, OBSERVATIONS, tokens=12, steps=3, history=history).observations
        for history in (None, HistoryGuidance.vanilla(3.0))
    )
    assert torch.equal(plain[:, :6], guided[:, :6])
    assert (plain[:, 6:] - guided[:, 6:]).abs().max() > 1e-3


def test_no_actions_lead_to_the_first_token_of_a_window() -> None:
    """They are 0 in training, so they are in-painted, and the start is a whole clean token."""
    built = model(fields=("observations", "previous_actions"))
    where = built.codec.layout.slices["previous_actions"]
    none = built.codec.normalizer.normalize(torch.zeros(built.codec.features))[where]
    seen: list[tuple[Tensor, Tensor]] = []
    built.network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[:2]))
    made = flat_rollout(built, OBSERVATIONS, tokens=11, context=3, steps=3, cache=False)
    assert made.previous_actions is not None and made.actions is None
    assert made.previous_actions[:, 1:].any(dim=-1).all()
    assert made.previous_actions[:, 0].abs().max() < 1e-6
    assert len(seen) == 9
    for x, level in seen:
        assert torch.equal(x[:, 0, where], none.expand(len(x), -1))
        assert not level[:, 0].any()


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"horizon": 7}, "`horizon` must be at most the 6 tokens .* Use pgdiff.rollout"),
        ({"horizon": 0}, "`horizon` must be an integer"),
        ({"stabilization": 1.0}, "`stabilization` must be a number in"),
        ({"level_schedule": torch.ones(3, 5)}, "`levels` must have shape"),
        ({"level_schedule": torch.tensor([[1.0] * 6, [0.5] * 6, [0.6] * 6])}, "never rising"),
        ({"level_schedule": torch.ones(2, 6)}, "0 in the last row"),
        ({"history": HistoryGuidance.vanilla(2.0), "known": None}, "`history` needs leading"),
    ]
    for options, message in cases:
        with pytest.raises(PgdiffError, match=message):
            draw(**options)
    unet = TemporalUnetConfig(width=8, mults=(1, 2))
    for other in (
        tiny_model(level_distribution=IndependentLevels()),
        flat_model(walk(), horizon=8, denoiser=unet),
    ):
        with pytest.raises(PgdiffError, match=r"`horizon` must be the . tokens .* is 'causal' or"):
            draw(other, horizon=4)
    for options, message in (
        ({"tokens": 0}, "`tokens` must be"),
        ({"tokens": 9, "context": 6}, "`history_tokens` must be less than the 6 tokens"),
        ({"tokens": 9, "context": 0}, "`history_tokens` must be"),
        ({"tokens": 9, "seed": -1}, "`seed` must be"),
        (
            {"tokens": 9, "horizon": 2, "context": 3},
            "`history_tokens` must be less than the 2",
        ),
        ({"tokens": 9, "horizon": 7}, "`horizon` must be at most the 6 tokens"),
        ({"tokens": 5, "history": "vanilla"}, "`history` must be a HistoryGuidance"),
        ({"tokens": 9, "until": lambda made: made.observations}, "`until` must return a tensor of"),
        ({"tokens": 9, "until": lambda made: True}, "`until` must return .* Got True"),
    ):
        with pytest.raises(PgdiffError, match=message):
            flat_rollout(MODEL, OBSERVATIONS, **options)
    for wrong in (OBSERVATIONS[:, :3], OBSERVATIONS[0]):
        with pytest.raises(PgdiffError, match=r"`observations` must have shape \[batch, 4\]"):
            flat_rollout(MODEL, wrong, tokens=9)
    chunks = model(fields=("observations", "action_chunks"))
    with pytest.raises(PgdiffError, match="Got only parts of tokens"):
        draw(chunks, history=HistoryGuidance.vanilla(2.0))


def test_a_model_of_one_level_has_not_seen_histories() -> None:
    histories = pytest.warns(UserWarning, match="not trained with histories")
    with histories, pytest.warns(UserWarning, match="trained with the in-painting patterns"):
        flat_rollout(tiny_model(walk()), OBSERVATIONS, tokens=9, steps=2)
    plain = tiny_model(walk())
    for options in (
        {"stabilization": 0.1},
        {"observed": Measurement(start().mask, start().values, 0.3), "known": None},
    ):
        with pytest.warns(UserWarning, match="was not trained with different levels"):
            draw(plain, **options)
