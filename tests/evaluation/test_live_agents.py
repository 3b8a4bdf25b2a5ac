"""Live models of Stable-Baselines3 act on the observations that they were trained on."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, TransformObservation
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

import pgdiff
from pgdiff.agents import Agent
from pgdiff.agents.sb3.live import of_raw_observations
from pgdiff.evaluation import evaluate
from pgdiff.workflows.recording.collect import collect

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "n_steps": 8, "batch_size": 8}


def make_env() -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1", max_episode_steps=12)


def ppo(vector: Any) -> PPO:
    model = PPO("MlpPolicy", vector, seed=0, device="cpu", **SMALL)
    for weight in model.policy.parameters():  # so that actions depend on observations
        weight.data.mul_(5.0)
    model.policy.log_std.data.fill_(-20.0)
    return model


@pytest.fixture(scope="module")
def normalized() -> PPO:
    vector = VecNormalize(VecMonitor(DummyVecEnv([make_env])), norm_reward=True)
    model = ppo(vector)
    model.learn(64)
    model.policy.log_std.data.fill_(-20.0)
    return model


class ByHand:
    """Scales observations by the formula of VecNormalize, then calls the policy."""

    def __init__(self, model: PPO) -> None:
        self.policy, self.vector = model.policy, model.get_vec_normalize_env()

    def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, Any]:
        rms = self.vector.obs_rms
        scaled = (observation - rms.mean) / np.sqrt(rms.var + self.vector.epsilon)
        return self.policy.predict(np.clip(scaled, -10, 10).astype(np.float32), deterministic=True)


def test_a_model_trained_in_vec_normalize_acts_by_its_statistics(
    normalized: PPO, tmp_path: Any
) -> None:
    before = normalized.get_vec_normalize_env().obs_rms.mean.copy()
    returns = {
        name: evaluate(agent, make_env, episodes=3, progress=False, record=1)
        for name, agent in {
            "model": normalized,
            "by hand": ByHand(normalized),
            "agent": Agent.of(normalized),
            "raw": normalized.policy,
        }.items()
    }
    np.testing.assert_allclose(returns["model"].returns, returns["by hand"].returns, rtol=1e-5)
    np.testing.assert_allclose(returns["model"].returns, returns["agent"].returns, rtol=1e-5)
    assert np.abs(returns["model"].returns - returns["raw"].returns).min() > 1e-3
    np.testing.assert_array_equal(normalized.get_vec_normalize_env().obs_rms.mean, before)
    stated = returns["model"].settings
    assert stated["agent"] == "PPO" and "VecNormalize" in stated["agent_observations"]
    rows = {
        name: pgdiff.load_episodes(
            collect(make_env(), tmp_path / name, steps=12, seed=0, expert=agent, progress=False)
        ).actions
        for name, agent in {
            "model.hdf5": normalized,
            "hand.hdf5": Agent.of(normalized),
        }.items()
    }
    np.testing.assert_allclose(rows["model.hdf5"], rows["hand.hdf5"], atol=1e-4)


def test_statistics_that_were_left_behind_are_missed(normalized: PPO, tmp_path: Any) -> None:
    normalized.save(tmp_path / "agent.zip")
    loaded = PPO.load(tmp_path / "agent.zip", device="cpu")
    for use in (
        lambda: evaluate(loaded, make_env, episodes=1, progress=False),
        lambda: Agent.of(loaded),
    ):
        with pytest.warns(UserWarning, match=r"trained in VecNormalize.*vec_normalize=STATISTICS"):
            use()


def test_other_wrappers_of_observations_are_named() -> None:
    stacked = ppo(VecFrameStack(DummyVecEnv([make_env]), 2))
    with pytest.raises(pgdiff.PgdiffError, match=r"trained in VecFrameStack. Got .* shape \(3,\)"):
        evaluate(stacked, make_env, episodes=1, progress=False)

    def shifted() -> Any:
        env = FlattenObservation(make_env())
        return TransformObservation(env, lambda seen: 0.5 * seen, env.observation_space)

    model = ppo(DummyVecEnv([shifted]))
    with pytest.warns(UserWarning, match="trained in TransformObservation, and the environment"):
        evaluate(model, make_env, episodes=1, progress=False)
    assert of_raw_observations(model, shifted()) is model  # wrapped alike
    with pytest.warns(UserWarning, match="trained in TransformObservation, and is given"):
        pgdiff.guides.Policy(model)
    plain = ppo(DummyVecEnv([lambda: FlattenObservation(make_env())]))
    assert of_raw_observations(plain, make_env()) is plain  # of the form alone
