"""Zips by Stable-Baselines3: the loaded agent acts like the saved one, to the last bit."""

import copy
import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from zips import (
    ALGORITHMS,
    ODD,
    SHARED,
    SYMMETRIC,
    Drift,
    edit_json,
    make_model,
    observations,
    read_zip,
    write_zip,
)

from pgdiff.agents import ActionCritic, Actor, Agent, load

LAWS = {
    "SAC": "squashed",
    "TQC": "squashed",
    "TD3": "deterministic",
    "DDPG": "deterministic",
    "PPO": "diagonal",
    "A2C": "diagonal",
}


def check_acts_as(
    agent: Agent, model: Any, seen: np.ndarray, raw: np.ndarray | None = None
) -> None:
    """An agent acts on raw observations like the model on its normalised observations."""
    raw = seen if raw is None else raw
    mine, state = agent.predict(raw)
    expected, _ = model.predict(seen, deterministic=True)
    assert state is None
    assert mine.dtype == expected.dtype
    np.testing.assert_array_equal(mine, expected)
    np.testing.assert_array_equal(
        agent.predict(raw[0])[0], model.predict(seen[0], deterministic=True)[0]
    )
    draws = []
    for predict, given in ((agent.predict, raw), (model.predict, seen)):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(5)
            draws.append(predict(given, deterministic=False)[0])
    np.testing.assert_array_equal(draws[0], draws[1])
    # `action` is the deterministic one, of any batch shape.
    action = agent.action(torch.as_tensor(raw[:20]).reshape(4, 5, -1))
    np.testing.assert_allclose(
        action.detach().reshape(20, -1).numpy(), expected[:20], rtol=1e-5, atol=1e-5
    )


def save_and_load(model: Any, folder: Path, **options: Any) -> Agent:
    model.save(folder / "agent.zip")
    return load(folder / "agent.zip", device="cpu", **options)


# ------------------------------------------------------------------------- agents by other people


@pytest.mark.parametrize("path", sorted(SHARED.glob("*.zip")), ids=lambda path: path.stem)
def test_old_agents_act_as_in_stable_baselines3(path: Path) -> None:
    name, task = path.stem.removesuffix("-v3").split("-")
    agent = load(path, device="cpu")
    # The oracle: Stable-Baselines3's class on today's task, with the file's weights.
    sizes = {"Hopper": (11, 3), "Walker2d": (17, 6), "HalfCheetah": (17, 6)}[task]
    env = Drift(low=[-1.0] * sizes[1], high=[1.0] * sizes[1], size=sizes[0])
    env.observation_space = gym.spaces.Box(-np.inf, np.inf, (sizes[0],), np.float64)
    model = ALGORITHMS[name.upper()]("MlpPolicy", env, device="cpu", buffer_size=10)
    file = io.BytesIO(read_zip(path)["policy.pth"])
    weights = torch.load(file, map_location="cpu", weights_only=True)
    model.set_parameters({"policy": weights}, exact_match=False)

    assert (agent.algorithm, agent.law) == (name.upper(), "squashed")
    assert agent.observation_space.shape == (sizes[0],)
    assert agent.action_space == env.action_space
    raw = np.random.default_rng(3).normal(scale=2.0, size=(1000, sizes[0]))
    check_acts_as(agent, model, raw)


# ---------------------------------------------------------------------------------- fresh agents


@pytest.mark.parametrize("bounds", [SYMMETRIC, ODD], ids=["symmetric", "odd"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_saved_agents_act_as_before(
    name: str, bounds: tuple[list[float], list[float]], tmp_path: Path
) -> None:
    model = make_model(name, Drift(low=bounds[0], high=bounds[1]))
    agent = save_and_load(model, tmp_path)
    assert (agent.algorithm, agent.law) == (name, LAWS[name])
    assert agent.action_space == model.action_space
    assert Agent.of(model).algorithm == name
    assert isinstance(agent, Actor)
    assert isinstance(agent, ActionCritic)
    assert not agent.training
    assert not any(weight.requires_grad for weight in agent.parameters())
    check_acts_as(agent, model, observations())


NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("SAC", {"net_arch": {"pi": [8], "qf": [16, 4, 5]}, "n_critics": 3, "activation_fn": nn.Tanh}),
    ("SAC", {"net_arch": []}),
    ("TQC", {"net_arch": [12], "n_quantiles": 7, "n_critics": 4, "activation_fn": nn.ELU}),
    ("TD3", {"net_arch": {"pi": [], "qf": [9]}, "activation_fn": nn.LeakyReLU}),
    ("DDPG", {"net_arch": [6, 7]}),
    ("PPO", {"net_arch": {"pi": [5, 4], "vf": [7]}, "activation_fn": nn.ReLU, "log_std_init": -1}),
    ("PPO", {"net_arch": [], "ortho_init": False}),
    ("A2C", {"net_arch": {"vf": [6]}, "share_features_extractor": False}),
]


@pytest.mark.parametrize(("name", "networks"), NETWORKS)
def test_sizes_come_from_the_weights(name: str, networks: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(name, policy_kwargs=networks)
    agent = save_and_load(model, tmp_path)
    assert agent.algorithm == name
    check_acts_as(agent, model, observations())
    seen = torch.as_tensor(observations(7))
    if agent.law == "diagonal":
        torch.testing.assert_close(agent.value(seen), model.policy.predict_values(seen)[:, 0])
    else:
        scaled = torch.as_tensor(model.policy.scale_action(agent.action(seen).numpy()))
        with torch.no_grad():
            heads = model.policy.critic(seen, scaled)
        if name == "TQC":
            heads = heads.mean(dim=2).T
        expected = torch.stack(tuple(heads)).reshape(-1, 7)
        torch.testing.assert_close(agent.q(seen, agent.action(seen)), expected)


@pytest.mark.parametrize("activation", ["ELU", nn.ELU])
def test_an_activation_is_named_or_given(activation: Any, tmp_path: Path) -> None:
    model = make_model("SAC", policy_kwargs={"net_arch": [8], "activation_fn": nn.ELU})
    model.save(tmp_path / "agent")
    members = read_zip(tmp_path / "agent.zip")
    edit_json(members, lambda data: data["policy_kwargs"].pop("activation_fn"))
    write_zip(tmp_path / "silent.zip", members)
    agent = load(tmp_path / "silent.zip", activation=activation, device="cpu")
    check_acts_as(agent, model, observations())
    other = load(tmp_path / "silent.zip", device="cpu")  # the default, ReLU, is another agent
    assert not np.array_equal(other.predict(observations())[0], agent.predict(observations())[0])


def test_an_old_ppo(tmp_path: Path) -> None:
    """The file is as Stable-Baselines3 1.x writes it: gym's box, `shape`, layers in a list."""
    model = make_model("PPO", policy_kwargs={"net_arch": {"pi": [6], "vf": [5]}})
    model.save(tmp_path / "agent.zip")
    members = read_zip(tmp_path / "agent.zip")

    def age(data: dict[str, Any]) -> None:
        data["policy_kwargs"] = {"net_arch": [{"pi": [6], "vf": [5]}]}
        for key in ("observation_space", "action_space"):
            data[key][":type:"] = "<class 'gym.spaces.box.Box'>"
            data[key]["shape"] = data[key].pop("_shape")

    edit_json(members, age)
    agent = load(write_zip(tmp_path / "old.zip", members), device="cpu")
    check_acts_as(agent, model, observations())


@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("SAC", {"net_arch": [8]}),
        ("TQC", {"net_arch": [8], "clip_mean": 0.5, "use_expln": True}),
        ("SAC", {"net_arch": [8], "clip_mean": 0.0}),
        ("PPO", {"net_arch": [8], "squash_output": True, "use_expln": True}),
        ("A2C", {"net_arch": [8], "full_std": False}),
    ],
)
def test_agents_with_gsde_act_as_before(
    name: str, networks: dict[str, Any], tmp_path: Path
) -> None:
    model = make_model(name, policy_kwargs=networks, use_sde=True)
    agent = save_and_load(model, tmp_path)
    seen = observations()
    np.testing.assert_array_equal(
        agent.predict(seen)[0], model.predict(seen, deterministic=True)[0]
    )
    action = agent.action(torch.as_tensor(seen))
    np.testing.assert_allclose(action.numpy(), agent.predict(seen)[0], rtol=1e-5, atol=1e-5)
    # A deviation about the action is its only density.
    at, beside = (
        agent.log_prob(torch.as_tensor(seen), shifted, deviation=0.5)
        for shifted in (action, action + 0.1)
    )
    assert (at > beside).all()


# --------------------------------------------------------------------------------- VecNormalize


def test_ppo_with_vec_normalize(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([Drift, Drift]), clip_obs=1.5)
    model = make_model("PPO", env, n_steps=64, batch_size=64, stir=0.0)
    model.learn(512)
    env.save(tmp_path / "vecnormalize.pkl")
    agent = save_and_load(model, tmp_path, vec_normalize=tmp_path / "vecnormalize.pkl")
    raw = 2 * observations() + 1
    seen = env.normalize_obs(raw)
    assert (np.abs(seen) == 1.5).mean() > 0.05  # some are clipped
    check_acts_as(agent, model, seen, raw)
    value = agent.value(torch.as_tensor(raw))
    torch.testing.assert_close(value, model.policy.predict_values(torch.as_tensor(seen))[:, 0])
    without = load(tmp_path / "agent.zip", device="cpu")
    assert not np.array_equal(without.predict(raw)[0], agent.predict(raw)[0])


def test_a_live_model_is_followed() -> None:
    env = VecNormalize(DummyVecEnv([Drift]))
    model = make_model("A2C", env)
    model.learn(20)
    agent = load(model)
    raw = observations()
    for _ in range(2):
        check_acts_as(agent, model, env.normalize_obs(raw), raw)
        before = agent.predict(raw)[0]
        model.learn(50)
        assert not np.array_equal(agent.predict(raw)[0], before)
    frozen = copy.deepcopy(agent)
    before = frozen.predict(raw)[0]
    model.learn(50)
    np.testing.assert_array_equal(frozen.predict(raw)[0], before)


def test_a_live_models_flags_stay() -> None:
    model = make_model("SAC")
    model.policy.set_training_mode(True)
    flags = {name: module.training for name, module in model.policy.named_modules()}
    assert any(flags.values())
    agent = Agent.of(model)
    assert agent.policy is model.policy
    seen = torch.as_tensor(observations())
    agent.predict(observations())
    agent.log_prob(seen, agent.action(seen))
    agent.q(seen, agent.action(seen))
    assert flags == {name: module.training for name, module in model.policy.named_modules()}
    assert all(weight.requires_grad for weight in model.policy.actor.parameters())


def test_a_shared_extractor_does_not_cut_the_gradient() -> None:
    networks = {"net_arch": [8], "share_features_extractor": True}
    agent = Agent.of(make_model("SAC", policy_kwargs=networks))
    seen = torch.as_tensor(observations()).requires_grad_()
    slope = torch.autograd.grad(agent.q(seen, agent.action(seen).detach()).sum(), seen)[0]
    assert (slope != 0).all()


def test_dropout_is_off(tmp_path: Path) -> None:
    class Dropped(nn.Dropout):
        def __init__(self) -> None:
            super().__init__(0.5)

    model = make_model("TD3", policy_kwargs={"net_arch": [32], "activation_fn": Dropped})
    model.policy.set_training_mode(True)
    agent = Agent.of(model)
    seen = torch.as_tensor(observations())
    action = agent.action(seen)
    torch.testing.assert_close(agent.action(seen), action, rtol=0, atol=0)
    for _ in range(2):
        torch.testing.assert_close(agent.q(seen, action), agent.q(seen, action), rtol=0, atol=0)


# -------------------------------------------------------------------------------- missing settings


def test_loading_leaves_the_global_generator(tmp_path: Path) -> None:
    model = make_model("PPO")
    before = torch.get_rng_state()
    first, second = (save_and_load(model, tmp_path) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])


def test_what_is_missing_is_an_argument(tmp_path: Path) -> None:
    model = make_model("TD3")
    model.save(tmp_path / "agent.zip")
    members = {"policy.pth": read_zip(tmp_path / "agent.zip")["policy.pth"]}
    agent = load(
        write_zip(tmp_path / "bare.zip", members),
        algorithm="TD3",
        observation_space=model.observation_space,
        action_space=model.action_space,
        device="cpu",
    )
    check_acts_as(agent, model, observations())
    assert load(tmp_path / "agent", device="cpu").algorithm == "TD3"  # ".zip" may be left out


def test_long_spaces_are_printed_in_part(tmp_path: Path) -> None:
    env = Drift(low=[-0.5] * 1200, high=[0.25] * 1200, size=1100)
    model = make_model("SAC", env, buffer_size=10)
    agent = save_and_load(model, tmp_path)
    assert agent.action_space == env.action_space
    assert agent.observation_space == env.observation_space
    check_acts_as(agent, model, observations(20, 1100))


def test_bounds_that_print_inexactly_are_given(tmp_path: Path) -> None:
    third = [1 / 3000, 1.0]
    model = make_model("SAC", Drift(low=[-1.0, -1.0], high=third))
    agent = save_and_load(model, tmp_path)
    np.testing.assert_allclose(agent.action_space.high, third, atol=1e-8)
    exact = load(tmp_path / "agent.zip", action_space=model.action_space, device="cpu")
    check_acts_as(exact, model, observations())


def test_an_agent_in_double_precision(tmp_path: Path) -> None:
    agent = save_and_load(make_model("SAC"), tmp_path)
    seen = torch.as_tensor(observations())
    single = agent.action(seen)
    double = copy.deepcopy(agent).double().action(seen.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)
