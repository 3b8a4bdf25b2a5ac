"""Laws of every agent that learns offline: members, units, acting, saving, resuming."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import DOUBLE, finite_differences, record
from worlds import KINDS, cpu_batch, make, normal, random_episodes

from pgdiff import Episodes, ObservationLayout, load_learner
from pgdiff.agents import IQL, Cloning, FittedQ, load
from pgdiff.core.validation import PgdiffError
from pgdiff.training import Callback, Trainer

EPISODES = random_episodes()
BOUNDS: dict[str, Any] = {"action_low": [-2.0, -0.5], "action_high": [1.0, 3.0]}
every = pytest.mark.parametrize("name", sorted(KINDS))


def trainer(**options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "steps": 12,
        "batch_size": 16,
        "learning_rate": 1e-2,
        "ema_decay": 0.0,
        "clip_norm": None,
        "validation": 0.0,
        "log_every": 4,
        "device": "cpu",
        "progress": False,
    }
    return Trainer(**(settings | options))


def stirred(name: str, **options: Any) -> Any:
    """Return an agent that has been trained a little, in double precision."""
    return trainer().fit(make(name, **options), EPISODES).double()


def same_weights(one: Any, two: Any) -> bool:
    weights, other = one.state_dict(), two.state_dict()
    assert weights.keys() == other.keys()
    return all(torch.equal(value, other[key]) for key, value in weights.items())


# ---------------------------------------------------------------------------------------- members


@every
def test_members_learn_as_if_they_were_alone(name: str) -> None:
    """Member i is the agent with seed + i, if it gets equal minibatches."""
    options = {"policy_noise": 0.0} if name == "td3_bc" else {}
    together = make(name, EPISODES, members=3, seed=5, **options)
    alone = [make(name, EPISODES, seed=5 + i, **options) for i in range(3)]
    learners = [together, *alone]
    optimizers = [
        torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=3e-3, fused=True)
        for one in learners
    ]
    source, rng = together.dataset(EPISODES), np.random.default_rng(0)
    for i in range(3):
        assert same_weights(together.member(i), alone[i])
    for _ in range(20):
        batch = cpu_batch(source, rng.integers(len(source), size=32))
        parts = [None if p is None else [p[:, i : i + 1] for i in range(3)] for p in batch]
        single = [type(batch)(*(p and p[i] for p in parts)) for i in range(3)]
        for learner, optimizer, seen in zip(learners, optimizers, [batch, *single], strict=True):
            losses = learner.losses(seen, torch.Generator())
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            learner.after_step()
    largest = 0.0
    for i in range(3):
        found, expected = together.member(i).state_dict(), alone[i].state_dict()
        for key in expected:
            largest = max(largest, float((found[key] - expected[key]).abs().max()))
    print(f"\n{name}: largest difference of a weight after 20 steps {largest:.1e}")
    assert largest < 1e-5
    assert not same_weights(together.member(0), together.member(1))


@every
def test_a_member_is_a_view(name: str, tmp_path: Path) -> None:
    agent = stirred(name, members=3)
    x = normal(4, 3, dtype=DOUBLE)
    one = agent.member(2)
    assert type(one) is type(agent) and one.members == 1 and not one.training
    assert torch.equal(agent.action(x), agent.member(0).action(x))
    before = one.action(x)
    assert not torch.equal(agent.action(x), before)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(one.action(x), before)
    assert [p.requires_grad for p in one.parameters()] == [
        p.requires_grad for p in agent.parameters()
    ]
    one.save_pretrained(tmp_path / "one")
    again = load_learner(tmp_path / "one", device="cpu")
    torch.testing.assert_close(again.action(x.float()), one.float().action(x.float()))
    for wrong, message in ((-1, "an integer of at least 0"), (1.5, "an int"), (3, "below 3")):
        with pytest.raises(PgdiffError, match=rf"`index` must be {message}"):
            agent.member(wrong)


# --------------------------------------------------------------------------------------- training


@every
def test_same_seed_same_weights(name: str) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        trainer(seed=seed).fit(make(name, members=2, seed=seed), EPISODES) for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert same_weights(first, again) and not same_weights(first, other)


class Stop(Callback):
    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt


@every
def test_a_resumed_training_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    """It is interrupted between two updates of a delayed actor."""
    options: dict[str, Any] = {"checkpoint_every": 5, "seed": 3}
    whole = trainer(folder=tmp_path / "whole", **options).fit(make(name, members=2), EPISODES)
    with pytest.raises(KeyboardInterrupt):
        trainer(folder=tmp_path / "cut", callbacks=[Stop()], **options).fit(
            make(name, members=2), EPISODES
        )
    resumed = trainer(folder=tmp_path / "cut", resume=True, **options)
    result = resumed.fit(make(name, members=2, seed=9), EPISODES)
    assert same_weights(result, whole)


@every
def test_without_an_average_the_last_weights_are_returned(name: str) -> None:
    """The papers evaluate these; the recipes set `ema_decay` to 0."""
    agent = make(name, members=2)
    seen: list[dict[str, torch.Tensor]] = []

    class Look(Callback):
        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            if step == 12:
                seen.append({key: value.clone() for key, value in agent.state_dict().items()})

    trainer(callbacks=[Look()]).fit(agent, EPISODES)
    assert all(torch.equal(value, seen[0][key]) for key, value in agent.state_dict().items())


@every
def test_a_saved_agent_comes_back(name: str, tmp_path: Path) -> None:
    agent = trainer().fit(make(name, members=2, **BOUNDS), EPISODES)
    agent.save_pretrained(tmp_path / "agent")
    again = load_learner(tmp_path / "agent", device="cpu")
    assert type(again) is type(agent) and same_weights(again, agent)
    observation = np.random.default_rng(0).normal(size=(6, 3))
    for i in range(2):
        actions, _ = agent.member(i).predict(observation)
        assert np.array_equal(again.member(i).predict(observation)[0], actions)
    assert again.action_space == agent.action_space
    assert same_weights(load(tmp_path / "agent", device="cpu"), agent)
    (tmp_path / "run.json").write_text("{}")  # the only agent of a run is the default
    assert same_weights(load(str(tmp_path), device="cpu"), agent)
    agent.save_pretrained(tmp_path / "second")
    with pytest.raises(
        PgdiffError, match=r"with one agent\. It has the agents: '.*agent', '.*second'"
    ):
        load(tmp_path)
    with pytest.raises(
        PgdiffError, match=r"`algorithm` must be left out for the folder of an agent"
    ):
        load(tmp_path / "agent", algorithm="SAC")


def test_a_network_without_a_policy_is_no_agent(tmp_path: Path) -> None:
    fitted = FittedQ.from_episodes(EPISODES, policies=[make("cloning")], width=8, depth=1)
    fitted.save_pretrained(tmp_path / "fitted_q")
    with pytest.raises(PgdiffError, match=r"must hold an agent\. Got a FittedQ"):
        load(tmp_path / "fitted_q")
    with pytest.raises(PgdiffError, match=r"has no manifest\.json"):
        (tmp_path / "empty").mkdir()
        load(tmp_path / "empty")


# ------------------------------------------------------------------------------------------ units


@every
def test_gradients_are_finite_differences(name: str) -> None:
    agent = stirred(name, members=2, **BOUNDS)
    x, action = (normal(3, 4, k, seed=k, dtype=DOUBLE) for k in (3, 2))
    functions: dict[str, Any] = {"log_prob": agent.log_prob}
    if hasattr(agent, "q"):
        functions["q"] = agent.q
    assert ("q" in functions) == (name != "cloning")
    for label, function in functions.items():
        for number in range(2):
            inputs = [x, action]

            def of(part: torch.Tensor, inputs: Any = inputs, number: int = number) -> torch.Tensor:
                changed = list(inputs)
                changed[number] = part
                return function(*changed)  # noqa: B023

            given = inputs[number].clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(of(given).sum(), given)
            with torch.no_grad():
                differences = finite_differences(of, inputs[number], step=1e-6)
            error = (gradient - differences).abs().max()
            print(f"\n{name}.{label}, argument {number}: {float(error):.1e}")
            assert error < 1e-6 * max(1.0, float(gradient.abs().max()))
            assert gradient.abs().max() > 1e-3


@every
def test_the_density_integrates_to_one_and_is_finite_far_away(name: str) -> None:
    """This holds in raw units, for any bounds; the means lie within them."""
    agent = stirred(name, **BOUNDS)
    axis = torch.linspace(-40, 40, 401, dtype=DOUBLE)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    x = torch.tensor([0.3, -2.0, 1.0], dtype=DOUBLE)
    with torch.no_grad():
        total = agent.log_prob(x.expand(*grid.shape[:2], 3), grid).exp().sum() * 0.2**2
        assert float(total) == pytest.approx(1.0, abs=1e-6)
        far = torch.full((1, 2), 1e6, dtype=DOUBLE)
        assert agent.log_prob(x[None], far).isfinite().all()
        mean = agent.action(normal(200, 3, dtype=DOUBLE) * 50)
    low, high = (torch.tensor(BOUNDS[key]) for key in ("action_low", "action_high"))
    assert (mean >= low - 1e-6).all() and (mean <= high + 1e-6).all()


@every
def test_any_leading_shape_will_do(name: str) -> None:
    agent = stirred(name)
    x, action = (normal(2, 5, k, dtype=DOUBLE) for k in (3, 2))
    functions = {"log_prob": (agent.log_prob, (x, action), 0), "action": (agent.action, (x,), 0)}
    if name != "cloning":
        functions["q"] = (agent.q, (x, action), 1)
    if name == "iql":
        functions["value"] = (agent.value, (x,), 0)
    for function, arguments, heads in functions.values():
        whole = function(*arguments)
        for i in range(2):
            for j in range(5):
                one = function(*(part[i, j] for part in arguments))
                torch.testing.assert_close(whole[:, i, j] if heads else whole[i, j], one)
        empty = function(*(part[:0] for part in arguments))
        assert empty.shape == (*whole.shape[:heads], 0, *whole.shape[heads + 1 :])


@every
def test_raw_units_do_not_matter(name: str) -> None:
    """Other units of observations and actions change the density only by the Jacobian."""
    scale, factor = np.array([10.0, 0.1, 3.0]), np.array([4.0, 0.5])
    fields = EPISODES.fields()
    fields["observations"] = fields["observations"] * scale + 7
    fields["actions"] = fields["actions"] * factor
    other = make(name, Episodes.from_arrays(**fields), action_low=-factor, action_high=factor)
    agent = make(name, action_low=[-1, -1], action_high=[1, 1])
    x, action = (normal(9, k) for k in (3, 2))
    observation, moved = x * torch.tensor(scale).float() + 7, action * torch.tensor(factor).float()
    close: dict[str, float] = {"rtol": 1e-3, "atol": 1e-4}
    expected = agent.action(x) * torch.tensor(factor).float()
    torch.testing.assert_close(other.action(observation), expected, **close)
    jacobian = float(np.log(factor).sum())
    torch.testing.assert_close(
        other.log_prob(observation, moved) + jacobian, agent.log_prob(x, action), **close
    )
    if name != "cloning":
        torch.testing.assert_close(other.q(observation, moved), agent.q(x, action), **close)


def test_bounds_are_the_datas_where_it_is_wider() -> None:
    actions = np.array([[-0.8, 3.0, -7.0], [0.5, -2.0, 0.0], [0.0, 0.0, -3.0]])
    episodes = record(np.eye(3), actions, [0, 1, 2], lengths=[3])
    agent = make("cloning", episodes)
    assert agent.action_low == (-1.0, -2.0, -7.0) and agent.action_high == (1.0, 3.0, 1.0)
    given = make("cloning", episodes, action_low=[-9, -9, -9], action_high=None)
    assert given.action_low == (-9.0, -9.0, -9.0) and given.action_high == (1.0, 3.0, 1.0)


def test_bounds_far_beyond_the_data_are_warned_of_and_given_ones_are_kept() -> None:
    """For a space of +-0.4, like Humanoid's, the agent may act far outside unless it is given."""
    actions = np.linspace(-0.4, 0.4, 12)[:, None]
    episodes = record(np.eye(12), actions, np.arange(12), lengths=[12])
    for name in sorted(KINDS):
        with pytest.warns(
            UserWarning, match=r"assumed to be -1 and 1 .* from -0\.4 to 0\.4.*Pass env"
        ):
            make(name, episodes)
        agent = make(name, episodes, action_low=[-0.4], action_high=[0.4])
        far = 50 * np.random.default_rng(0).normal(size=(40, 12))
        acted, _ = stirred_weights(agent).predict(far, deterministic=False)
        assert agent.action_space.contains(acted[0]) and np.abs(acted).max() <= np.float32(0.4)


def stirred_weights(agent: Any) -> Any:
    with torch.no_grad():
        for weight in agent.parameters():
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return agent


# ----------------------------------------------------------------------------------------- acting


@every
def test_predict_is_stable_baselines_protocol(name: str) -> None:
    agent = stirred(name, members=2, **BOUNDS).float()
    batch = np.random.default_rng(1).normal(size=(20, 3)) * 30
    actions, state = agent.predict(batch, state="kept", episode_start=np.ones(20, bool))
    assert actions.shape == (20, 2) and actions.dtype == np.float32 and state == "kept"
    single, _ = agent.predict(batch[4])
    np.testing.assert_allclose(single, actions[4], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = agent.action(torch.tensor(batch).float()).numpy()
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
    integers, _ = agent.predict(np.zeros(3, np.int64))
    np.testing.assert_allclose(integers, agent.predict(np.zeros(3))[0])


def test_drawn_actions_are_the_policys_and_within_bounds() -> None:
    agent = stirred("iql", **BOUNDS).float()
    with torch.no_grad():
        agent.actor.log_deviation.fill_(-2.0)
    observation = np.zeros((20_000, 3))
    drawn, _ = agent.predict(observation, deterministic=False)
    assert agent.action_space.contains(drawn.min(axis=0))
    assert agent.action_space.contains(drawn.max(axis=0))
    mean, _ = agent.predict(observation[0])
    deviation = np.exp(-2.0) * agent.actions.scale.numpy()
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=4 * deviation.max() / 20_000**0.5)
    np.testing.assert_allclose(drawn.std(axis=0), deviation, rtol=0.03)
    runs = []
    for seed in (4, 4, 5):
        agent.set_random_seed(seed)
        runs.append(agent.predict(observation[:5], deterministic=False)[0])
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    fixed = stirred("td3_bc").float()
    both = [fixed.predict(observation[:5], deterministic=choice)[0] for choice in (True, False)]
    assert np.array_equal(*both)


@every
def test_stable_baselines_evaluates_it(name: str) -> None:
    rng = np.random.default_rng(0)
    episodes = record(
        rng.normal(size=(60, 3)), rng.uniform(-2, 2, (60, 1)), rng.normal(size=60), lengths=[30, 30]
    )
    agent = make(name, episodes, action_low=[-2.0], action_high=[2.0])
    for parallel in (1, 3):
        env = DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))] * parallel)
        returns, lengths = evaluate_policy(
            agent, env, n_eval_episodes=3, return_episode_rewards=True, deterministic=False
        )
        env.close()
        assert lengths == [200] * 3 and np.isfinite(returns).all()
    assert agent.observation_space.shape == (3,)
    assert agent.action_space == gym.make("Pendulum-v1").action_space


# ------------------------------------------------------------------------------------- bad inputs


@every
def test_bad_settings_are_named(name: str) -> None:
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"members": 0}, r"`members` must be an integer of at least 1\. Got 0"),
        ({"members": 1.5}, r"`members` must be an integer of at least 1\. Got 1.5"),
        ({"width": 0}, r"`width` must be an integer of at least 1"),
        ({"depth": -1}, r"`depth` must be an integer of at least 1"),
        ({"seed": -1}, r"`seed` must be an integer in \[0, 2\^63\)"),
        ({"normalizer": "standart"}, r"`normalizer` must be .* Did you mean 'standard'"),
        ({"action_low": [-1.0]}, r"`action_low` must be 2 numbers, one for each .* Got \[-1.0\]"),
        ({"action_high": 1.0}, r"`action_high` must be 2 numbers, one for each .* Got 1.0"),
        ({"action_low": [1.0, 2.0]}, r"`action_low` must be below `action_high` .* \[1.0, 2.0\]"),
        ({"action_high": [np.nan, 1.0]}, r"`action_high` must be a number in .* Got nan"),
        ({"widht": 8}, r"no argument 'widht'.*Did you mean 'width'"),
    )
    for options, message in bad:
        with pytest.raises(PgdiffError, match=message):
            make(name, **options)


@every
def test_bad_observations_are_named(name: str) -> None:
    agent = make(name)
    bad: tuple[tuple[Any, str], ...] = (
        (np.zeros(4), r"`observation` must have the shape \[..., 3\], .* Got \[4\]"),
        (np.zeros((5, 2)), r"`observation` must have the shape \[..., 3\], .* Got \[5, 2\]"),
        (1.0, r"`observation` must have the shape \[..., 3\], .* Got \[\]"),
        ([0.0, np.nan, 0.0], r"`observation` must be finite numbers"),
        (["a", "b", "c"], r"`observation` must be finite numbers"),
        ({"image": 0}, r"`observation` must be an array.* Got a mapping of \['image'\]"),
    )
    for observation, message in bad:
        with pytest.raises(PgdiffError, match=message):
            agent.predict(observation)


@every
def test_bad_tensors_are_named(name: str) -> None:
    agent = make(name)
    with pytest.raises(PgdiffError, match=r"`observation` must have the shape \[..., 3\]"):
        agent.log_prob(torch.zeros(2, 4), torch.zeros(2, 2))
    with pytest.raises(PgdiffError, match=r"`action` must have the shape \[..., 2\]"):
        agent.log_prob(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["iql", "td3_bc"])
def test_rewards_that_never_differ_are_refused(name: str) -> None:
    flat = record(np.zeros((6, 1)), np.zeros((6, 1)), [2.0] * 6, lengths=[3, 3])
    with pytest.raises(PgdiffError, match=r"`rewards` must differ .* Got 2.0 in every row"):
        make(name, flat)
    make("cloning", flat)
    ended = record(np.zeros((6, 1)), np.zeros((6, 1)), [2.0] * 6, lengths=[3, 3], terminal=True)
    make(name, ended)  # to stay alive has a value


@pytest.mark.parametrize("name", ["iql", "td3_bc"])
def test_a_recording_without_a_transition_is_refused(name: str) -> None:
    short = record(np.zeros((3, 1)), np.zeros((3, 1)), [0, 1, 2], lengths=[1, 1, 1])
    with pytest.raises(PgdiffError, match=r"The 3 episodes hold no transition of 1 steps"):
        trainer().fit(make(name, short), short)


@pytest.mark.parametrize("kind", [IQL, Cloning])
def test_dict_observations_are_refused(kind: Any) -> None:
    layout = ObservationLayout(fields=(("position", 2),), goal=("desired", 1))
    episodes = Episodes.from_arrays(
        observations=np.zeros((4, 2)),
        actions=np.zeros((4, 1)),
        rewards=np.arange(4),
        terminals=[0, 0, 0, 1],
        infos={"goal": np.zeros((4, 1))},
        observation_layout=layout,
    )
    with pytest.raises(PgdiffError, match=r"`episodes` must hold observations that are arrays"):
        kind.from_episodes(episodes)
