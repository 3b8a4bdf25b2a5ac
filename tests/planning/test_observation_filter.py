"""Noisy observations are estimated from past observations and actions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toys import flat_planner, record, stir, tiny_model, walk

from pgdiff import Planner, TransitionValue
from pgdiff.core.validation import PgdiffError
from pgdiff.data import LimitsNormalizer
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import DDIM, IndependentLevels
from pgdiff.diffusion.level_schedules import Pyramid
from pgdiff.guides import Value
from pgdiff.planning.observation_filter import estimate_present, trust
from pgdiff.planning.state import ObservationHistory

EPISODES = walk()
STRIDE = 3
SETTINGS: dict[str, Any] = {
    "level_distribution": IndependentLevels(),
    "denoiser": TransformerConfig(width=16, depth=1, heads=2, attention="causal"),
}
FIELDS: dict[str, tuple[str, ...]] = {
    "alone": ("observations",),
    "previous": ("observations", "previous_actions"),
}
MODELS = {name: tiny_model(EPISODES, fields=fields, **SETTINGS) for name, fields in FIELDS.items()}
VALUE = stir(TransitionValue.from_episodes(EPISODES, stride=STRIDE, width=16, depth=1))
SEEN = np.array(EPISODES.observations[:80], np.float32)
DONE = np.array(EPISODES.actions[:80], np.float32)
NOTHING = np.full_like(SEEN[0], np.nan)


class Replay:
    """A controller that repeats recorded actions, and records the observations it receives."""

    def __init__(self) -> None:
        self.received: list[np.ndarray] = []

    def act(self, observation: Any, waypoint: Any, steps_left: Any) -> Any:
        self.received.append(observation)
        return np.repeat(DONE[len(self.received) - 1][None], len(observation), axis=0)


def make(fields: str = "previous", **options: Any) -> Planner:
    settings: dict[str, Any] = {
        "candidates": 2,
        "steps": 3,
        "level_schedule": Pyramid(),
        "solver": DDIM(),
        "guides": [Value(VALUE, scale=0.02)],
        "replan_every": 2,
        "context": 2,
        "observation_level": 0.2,
        "controller": Replay(),
    }
    return flat_planner(MODELS[fields], **(settings | options))


def drive(planner: Planner, steps: int, *, starts: Any = (), missing: Any = ()) -> Any:
    """Run two environments; the second begins a new episode at `starts`, both miss `missing`."""
    state = None
    for step in range(steps):
        both = np.stack([NOTHING if step in missing else SEEN[step]] * 2)
        flags = np.array([step == 0, step == 0 or step in starts])
        _, state = planner.predict(both, state, flags)
    return state


def received(planner: Planner) -> np.ndarray:
    return np.stack(planner.controller.received)  # type: ignore[union-attr]


def test_the_past_is_a_recorded_segments_beginning() -> None:
    """It is the model's estimate of those tokens, for any layout, as `dataset` cuts them."""
    for fields in FIELDS:
        for tokens in (0, 1, 2):
            check_past(fields, tokens)


def check_past(fields: str, tokens: int) -> None:
    model, steps = MODELS[fields], tokens * STRIDE
    past = ObservationHistory.empty(1, 6, observation=4, action=model.codec.layout.action_size or 0)
    for step in range(steps):
        level = np.array([0.1 * step])
        past = past.append(SEEN[step : step + 1], DONE[step : step + 1], level, np.zeros((1, 4)))
    found = estimate_present(model, SEEN[steps : steps + 1], np.array([0.3]), past)
    batch = model.dataset(EPISODES).batch(np.array([0]))
    parts = {name: torch.tensor(getattr(batch, name)) for name in FIELDS[fields]}
    x = model.codec.encode(batch._replace(**parts))[:, : tokens + 1]
    level = torch.tensor([[0.1 * STRIDE * token for token in range(tokens)] + [0.3]])
    x0_hat = model.denoise(model.process.noise_schedule.alpha(level)[..., None] * x, level)
    expected = model.codec.decode(x0_hat).observations[:, -1]
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)
    assert np.abs(found - SEEN[steps]).max() > 1e-3


def test_each_environment_has_the_past_of_its_own_episode() -> None:
    """The second starts a new episode after 4 steps, and equals one environment from there."""
    planner, again = make(), make()
    state = drive(planner, 9, starts=(4,))
    assert state.past.recorded.tolist() == [6, 5]
    np.testing.assert_array_equal(state.past.observations[0], SEEN[3:9])
    np.testing.assert_array_equal(state.past.actions[0], DONE[3:9])
    again.controller.received += [SEEN[:2]] * 4  # type: ignore[union-attr]
    later = None
    for step in range(4, 9):
        _, later = again.predict(SEEN[step], later)
    np.testing.assert_allclose(
        received(planner)[4:, 1], np.concatenate(received_later(again)), atol=1e-5
    )
    assert np.abs(received(planner)[7:, 0] - received(planner)[7:, 1]).max() > 1e-4


def received_later(planner: Planner) -> list[np.ndarray]:
    return planner.controller.received[4:]  # type: ignore[union-attr]


def test_plans_begin_at_the_estimate_and_the_controller_gets_it_at_every_step() -> None:
    planner = make()
    state = drive(planner, 8)
    for step, observation in enumerate(received(planner)):
        assert np.abs(observation - SEEN[step]).max() > 1e-3
    _, after = planner.predict(np.stack([SEEN[8]] * 2), state)
    np.testing.assert_allclose(after.waypoints[:, 0], received(planner)[8], atol=1e-5)


def test_without_noise_observations_stay_as_they_are() -> None:
    with pytest.warns(UserWarning, match="`history_tokens` has no effect"):
        planner = make(observation_level=0.0)
    plain = make(observation_level=0.0, context=0)
    states = [drive(each, 8) for each in (planner, plain)]
    np.testing.assert_array_equal(received(planner)[:, 0], SEEN[:8])
    np.testing.assert_array_equal(states[0].waypoints, states[1].waypoints)


def test_what_stands_in_for_a_missing_observation_is_seen_with_the_past() -> None:
    """Its level is kept in the past; other observations of that past stay exact."""
    planner, plain = (
        make(observation_level=0.0, missing_level=0.3, context=context) for context in (2, 0)
    )
    state = drive(planner, 8, missing=(4, 7))
    drive(plain, 8, missing=(4, 7))
    assert (state.past.levels[0] > 0).tolist() == [False, False, True, False, False, True]
    assert state.past.levels.max() == np.float32(0.3)
    seen = [0, 1, 2, 3, 5, 6]
    np.testing.assert_array_equal(received(planner)[seen, 0], SEEN[seen])
    assert np.abs(received(planner)[4] - received(plain)[4]).max() > 1e-3


def test_actions_that_no_environment_takes_are_cut() -> None:
    class Wild(Replay):
        def act(self, observation: Any, waypoint: Any, steps_left: Any) -> Any:
            return np.full((len(observation), 2), 9.0, np.float32)

    state = drive(make(controller=Wild()), 4)
    assert state.past.actions.max() == pytest.approx(float(EPISODES.actions[:].max()), abs=1e-3)


def test_the_same_seed_gives_the_same() -> None:
    one, other = make(), make()
    states = [drive(each, 9) for each in (one, other)]
    np.testing.assert_array_equal(states[0].waypoints, states[1].waypoints)
    np.testing.assert_array_equal(received(one), received(other))


def test_estimates_that_are_off_by_more_than_noise_explains_are_trusted_less() -> None:
    """The trust is the noise's variance over that of the errors, by feature and by episode."""
    model = MODELS["alone"]
    past = ObservationHistory.empty(2, 6, observation=4, action=0)
    scale = (model.codec.normalizer.scale / model.codec.normalizer.factor).numpy()
    deviation = scale * level_deviation(model, 0.2)
    off = np.stack([deviation * [0.5, 1.0, 2.0, 4.0], np.zeros(4)])
    levels = np.array([0.2, 0.2])
    for _ in range(6):
        past = past.append(np.zeros((2, 4)), np.zeros((2, 0)), levels, off)
    found = trust(model, levels, past)
    np.testing.assert_allclose(found[0], [1.0, 1.0, 1 / 4, 1 / 16], rtol=1e-4)
    assert (found[1] == 1.0).all()
    two = np.array([0.2, 0.05])  # the present observation has no part in it
    np.testing.assert_array_equal(trust(model, two, past)[0], found[0])
    half = past.reset_where(np.array([True, False]))
    assert (trust(model, levels, half) == 1.0).all()
    for _ in range(3):  # without enough steps the estimate is trusted fully
        half = half.append(np.zeros((2, 4)), np.zeros((2, 0)), levels, off)
    np.testing.assert_allclose(trust(model, levels, half)[0], [1.0, 1.0, 1 / 2, 1 / 8], rtol=1e-4)


def test_trust_follows_the_noise_of_each_step_with_an_observation() -> None:
    model = MODELS["alone"]
    scale = (model.codec.normalizer.scale / model.codec.normalizer.factor).numpy()
    past = ObservationHistory.empty(1, 6, observation=4, action=0)
    variance, square = np.zeros(4), np.zeros(4)
    for step, level in enumerate([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]):
        off = scale * level_deviation(model, level) * 2.0
        if step in (1, 3):
            off = np.full(4, np.nan)
        else:
            variance += np.square(scale * level_deviation(model, level))
            square += np.square(off)
        past = past.append(np.zeros((1, 4)), np.zeros((1, 0)), np.array([level]), off[None])
    for now in (0.05, 0.5):
        found = trust(model, np.array([now]), past)
        np.testing.assert_allclose(found, (variance / square)[None], rtol=1e-4)
        np.testing.assert_allclose(found, 1 / 4, rtol=1e-4)
    nothing = past._replace(moved=np.full_like(past.moved, np.nan))
    assert (trust(model, np.array([0.2]), nothing) == 1.0).all()


def level_deviation(model: Any, level: float) -> float:
    levels = torch.tensor(level, dtype=torch.float64)
    return float(
        model.process.noise_schedule.sigma(levels) / model.process.noise_schedule.alpha(levels)
    )


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_named() -> None:
    rewarded = tiny_model(EPISODES, fields=("observations", "rewards"), **SETTINGS)
    full = tiny_model(EPISODES, level_distribution=IndependentLevels())
    fields = ("observations", "action_chunks")
    chunks = tiny_model(EPISODES, fields=fields, **SETTINGS)
    cases: list[tuple[Any, Any, str]] = [
        (MODELS["previous"], -1, "`history_tokens` must be an integer of at least 0"),
        (MODELS["previous"], 1.5, "`history_tokens` must be an integer"),
        (MODELS["previous"], 6, "`history_tokens` must be less than the 6 tokens"),
        (tiny_model(EPISODES), 2, "`history_tokens` must be 0 for a model with one noise level"),
        (rewarded, 2, "`history_tokens` must be 0 for a model whose tokens hold 'rewards'"),
        (chunks, 2, "`history_tokens` must be 0 for a model whose tokens hold 'action_chunks'"),
        (full, 2, "`history_tokens` must be 0 for a model that is not causal"),
        (full, 5, "`history_tokens` must be 0 for a model that is not causal"),
    ]
    for model, context, message in cases:
        with pytest.raises(PgdiffError, match=message):
            flat_planner(model, context=context, observation_level=0.1)
    planner = make()
    for levels in (np.zeros(1), [[0.1, 0.1]], [0.1, None], [0.1, 1.0], "ab"):
        with pytest.raises(PgdiffError, match=r"`levels` must"):
            planner.plan_batch(SEEN[:2], seeds=[0, 1], levels=levels)  # type: ignore[arg-type]
    with pytest.raises(PgdiffError, match=r"`observation` must hold one environment or"):
        planner.plan_batch(SEEN[:0], seeds=[])


def test_a_state_of_another_planner_is_named() -> None:
    planner, longer, plain = make(), make(context=3), make(context=0)
    alone = make("alone", context=0)
    shorter, acting = make(context=0, horizon=4), make(context=0, controller="actions")
    for maker, user, message in (
        (plain, planner, "Got a history of the sizes None, but this"),
        (planner, plain, "Got a history of the sizes .*, but this planner needs None"),
        (longer, planner, r"Got a history of the sizes \(9, 4\), but this planner needs \(6, 4\)"),
        (shorter, plain, r"Got a plan of the sizes \(4, 4\), but this planner needs \(6, 4\)"),
        (alone, acting, "Got actions of a plan of the sizes None, but this planner needs"),
        (
            acting,
            alone,
            r"Got actions of a plan of the sizes \(15, 2\), but this planner needs None",
        ),
    ):
        _, state = maker.predict(SEEN[0])
        with pytest.raises(PgdiffError, match=message):
            user.predict(SEEN[0], state)


@pytest.mark.usefixtures("unchecked")
def test_what_a_controller_returns_is_checked() -> None:
    class Bad(Replay):
        actions: Any = None

        def act(self, observation: Any, waypoint: Any, steps_left: Any) -> Any:
            return self.actions

    planner = make(controller=Bad())
    cases: list[tuple[Any, str]] = [
        (np.zeros((1, 1)), r"`controller` must .* of the shape \[1, 2\]. Got \[1, 1\]"),
        (np.zeros(2), r"`controller` must .* of the shape \[1, 2\]. Got \[2\]"),
        (np.full((1, 2), np.nan), "`controller` must .* finite numbers. Got"),
        (np.array([["a", "b"]]), "`controller` must .* finite numbers. Got"),
    ]
    for actions, message in cases:
        planner.controller.actions = actions  # type: ignore[union-attr]
        with pytest.raises(PgdiffError, match=message):
            planner.predict(SEEN[0])


def test_a_model_that_gives_nan_is_named_and_not_the_observation() -> None:
    model = tiny_model(EPISODES, fields=FIELDS["previous"], **SETTINGS)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(torch.nan)
    planner = flat_planner(model, context=2, observation_level=0.2, controller=Replay())
    with pytest.raises(PgdiffError, match="`model` must estimate finite observations, got NaN"):
        planner.predict(SEEN[0])


# ------------------------------------------------------------------------------------- the oracle


def test_it_is_kalmans_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of an AR(1) process with its exact denoiser; the filter runs step by step."""
    places = np.random.default_rng(0).normal(size=(80, 1))
    model = tiny_model(record(places, places, places[:, 0], lengths=[80]), **SETTINGS)
    normalizer = LimitsNormalizer(torch.zeros(1), torch.ones(1))
    model.codec = replace(model.codec, normalizer=normalizer)  # type: ignore[type-var]
    schedule, rho = model.process.noise_schedule, 0.9
    size = rho ** (torch.arange(6)[:, None] - torch.arange(6)).abs()

    def exact(x: Any, level: Any, condition: Any, network: Any = None) -> Any:
        """Return E[x0 | x] for any number of tokens, each at its level."""
        count = x.shape[1]
        alpha, sigma = schedule.alpha(level), schedule.sigma(level)
        prior = size[:count, :count]
        noisy = alpha[:, :, None] * prior * alpha[:, None] + torch.diag_embed(sigma.square())
        gain = torch.linalg.solve(noisy, alpha[..., None] * prior)
        return (x.transpose(1, 2) @ gain).transpose(1, 2)

    monkeypatch.setattr(model, "_estimate", exact)
    for levels in ([0.1], [0.1, 0.1, 0.1], [0.0, 0.2, 0.1], [0.3, 0.05, 0.2]):
        check_kalman(model, levels, rho)


def check_kalman(model: Any, levels: list[float], rho: float) -> None:
    schedule = model.process.noise_schedule
    seen, count = np.array([[0.9], [-0.4], [1.1]], np.float32), len(levels)
    past = ObservationHistory.empty(1, 6, observation=1, action=0)
    for token in range(count - 1):
        for _ in range(STRIDE):
            here, level = seen[token : token + 1], np.array([levels[token]])
            past = past.append(here, np.zeros((1, 0)), level, np.zeros((1, 1)))
    found = estimate_present(model, seen[count - 1 : count], np.array(levels[-1:]), past)
    mean, variance = 0.0, 1.0
    for token, level in enumerate(levels):
        if token:
            mean, variance = rho * mean, rho**2 * variance + 1 - rho**2
        noise = float(schedule.sigma(torch.tensor(level)) / schedule.alpha(torch.tensor(level)))
        gain = variance / (variance + noise**2)
        mean, variance = mean + gain * (float(seen[token, 0]) - mean), (1 - gain) * variance
    assert found[0, 0] == pytest.approx(mean, abs=1e-4)
