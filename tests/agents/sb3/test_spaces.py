"""Agents of one task are not mistaken for those of another."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from zips import make_model

from pgdiff.agents import Agent, check_sizes
from pgdiff.core.validation import PgdiffError


def test_sizes_that_fit_and_agents_without_spaces() -> None:
    agent = Agent.of(make_model("SAC"))
    check_sizes(agent, observation=3, action=2, name="agent")
    check_sizes(agent, observation=3, action=None, name="agent")
    check_sizes(object(), observation=9, action=9, name="agent")


def test_sizes_that_do_not_fit() -> None:
    agent = Agent.of(make_model("PPO"))
    for observation, action, model in (
        (11, 3, r"\(11,\) and action \(3,\)"),
        (3, 3, r"\(3,\) and action \(3,\)"),
        (4, None, r"\(4,\) and no action"),
    ):
        got = rf"an agent of observation \(3,\) and action \(2,\), and a model.*{model}"
        with pytest.raises(PgdiffError, match=rf"`pilot` must.*{got}"):
            check_sizes(agent, observation=observation, action=action, name="pilot")


def test_other_spaces_do_not_fit() -> None:
    for space in (gym.spaces.Discrete(3), gym.spaces.Box(0, 1, (2, 3), np.float32)):
        agent = SimpleNamespace(observation_space=gym.spaces.Box(-1, 1, (3,)), action_space=space)
        with pytest.raises(PgdiffError, match=r"`agent` must be of the model's task"):
            check_sizes(agent, observation=3, action=3, name="agent")
