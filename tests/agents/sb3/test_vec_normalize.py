"""Statistics of `VecNormalize`, read without unpickling."""

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from zips import Drift, make_model, observations

from pgdiff.agents import Agent, VecNormalizeStatistics, read_vec_normalize
from pgdiff.core.validation import PgdiffError


def used(**options: Any) -> VecNormalize:
    """Return a wrapper with statistics of some observations, whose spaces have generators."""
    env = VecNormalize(DummyVecEnv([Drift]), **options)
    env.reset()
    env.action_space.seed(3)
    for _ in range(30):
        env.step(np.array([env.action_space.sample()]))
    return env


def test_it_scales_as_the_wrapper_does(tmp_path: Path) -> None:
    env = used(clip_obs=1.25, epsilon=1e-3)
    path = tmp_path / "vecnormalize.pkl"
    seen = 3 * observations()
    expected = torch.as_tensor(env.normalize_obs(seen))
    for protocol in (2, 3, 4, 5):
        if protocol > 2:
            path.write_bytes(pickle.dumps(env, protocol=protocol))
        else:
            env.save(str(path))
        statistics = read_vec_normalize(path)
        assert statistics is not None
        mine = statistics(torch.as_tensor(seen))
        assert torch.equal(mine.float(), expected)
        assert (mine.abs() == 1.25).any()


def test_counts_of_numpys_own_types(tmp_path: Path) -> None:
    env = used()
    env.obs_rms.count = np.float64(12.5)
    env.clip_obs = np.float32(2.0)
    env.obs_rms.mean = env.obs_rms.mean.astype(">f4")
    env.save(str(tmp_path / "v.pkl"))
    statistics = read_vec_normalize(tmp_path / "v.pkl")
    assert statistics is not None
    seen = 3 * observations()
    np.testing.assert_allclose(
        statistics(torch.as_tensor(seen)).numpy(), env.normalize_obs(seen), rtol=1e-6
    )


def test_what_leaves_observations_is_none(tmp_path: Path) -> None:
    env = used(norm_obs=False)
    env.save(str(tmp_path / "v.pkl"))
    assert read_vec_normalize(tmp_path / "v.pkl") is None
    assert VecNormalizeStatistics.of(env) is None


def test_it_is_differentiable() -> None:
    statistics = VecNormalizeStatistics(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 4.0]), clip=2)
    seen = torch.tensor([[2.0, 9.0]], requires_grad=True)
    slope = torch.autograd.grad(statistics(seen).sum(), seen)[0]
    torch.testing.assert_close(slope, torch.tensor([[0.5, 0.0]]))


# ---------------------------------------------------------------------------------------- damaged


def change(name: str, value: Any) -> Any:
    def apply(env: VecNormalize) -> None:
        target = env if hasattr(env, name) else env.obs_rms
        setattr(target, name, value)

    return apply


FAULTS: list[tuple[Any, str]] = [
    (change("mean", np.zeros(2)), r"`mean` and `var`.*equal shapes.*\(3,\)"),
    (change("mean", np.array([0.0, np.nan, 0.0])), r"must be finite"),
    (change("var", np.array([0.0, np.inf, 0.0])), r"must be finite"),
    (change("var", np.array([0.0, -1.0, 0.0])), r"at least 0"),
    (change("mean", np.zeros((3, 1))), r"`mean`.*plain type"),
    (change("mean", np.array(["a", "b", "c"])), r"`mean`.*plain type"),
    (change("mean", np.array([1j, 1, 1])), r"`mean`.*plain type"),
    (change("mean", [0.0, 0.0, 0.0]), r"`mean`.*array of numbers"),
    (change("count", 0.0), r"`count`.*above 0"),
    (change("clip_obs", -1.0), r"`clip_obs`.*above 0"),
    (change("clip_obs", "ten"), r"`clip_obs`.*above 0.*ten"),
    (change("epsilon", float("nan")), r"`epsilon`.*above 0"),
    (change("norm_obs", 1), r"`norm_obs`.*True or False"),
    (change("obs_rms", {"a": 1}), r"dictionaries.*FlattenObservation"),
    (change("obs_rms", 3), r"RunningMeanStd.*something else"),
    (change("metadata", Drift), r"has the name zips\.Drift, which is not part of a VecNormalize"),
]


def test_statistics_that_cannot_be(tmp_path: Path) -> None:
    for spoil, message in FAULTS:
        env = used()
        spoil(env)
        env.save(str(tmp_path / "v.pkl"))
        with pytest.raises(PgdiffError, match=message):
            read_vec_normalize(tmp_path / "v.pkl")


def test_statistics_of_dictionaries_say_what_to_do(tmp_path: Path) -> None:
    env = used()
    env.obs_rms, env.norm_obs_keys = {"a": env.obs_rms}, {"a"}
    env.metadata = {"spaces": frozenset({"a"}), "text": gym.spaces.Text(3)}
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "v.pkl").write_bytes(pickle.dumps(env, protocol=protocol))
        with pytest.raises(PgdiffError, match=r"dictionaries.*FlattenObservation"):
            read_vec_normalize(tmp_path / "v.pkl")


def test_files_without_a_vec_normalize_are_refused(tmp_path: Path) -> None:
    env = used()
    whole = pickle.dumps(env)
    for content, message in [
        (b"", r"must be an intact pickle of a VecNormalize"),
        (b"hello", r"must be an intact pickle of a VecNormalize"),
        (whole[:-20], r"must be an intact pickle of a VecNormalize"),
        (pickle.dumps({"mean": 1}), r"must contain a VecNormalize"),
        (whole.replace(b"clip_obs", b"clip_abc"), r"has no `clip_obs`"),
    ]:
        (tmp_path / "v.pkl").write_bytes(content)
        with pytest.raises(PgdiffError, match=message):
            read_vec_normalize(tmp_path / "v.pkl")
    with pytest.raises(PgdiffError, match=r"does not exist"):
        read_vec_normalize(tmp_path / "absent.pkl")
    with pytest.raises(PgdiffError, match=r"must be a file\. Got a folder"):
        read_vec_normalize(tmp_path)


def test_statistics_of_other_observations() -> None:
    statistics = VecNormalizeStatistics(torch.zeros(4), torch.ones(4))
    with pytest.raises(PgdiffError, match=r"`vec_normalize`.*\(3,\).*\(4,\)"):
        Agent.of(make_model("PPO"), vec_normalize=statistics)


def test_a_live_wrapper_of_dictionaries() -> None:
    class Goals(Drift):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Dict(at=self.observation_space)

    env = VecNormalize(DummyVecEnv([Goals]))
    with pytest.raises(PgdiffError, match=r"dictionaries"):
        VecNormalizeStatistics.of(env)
