"""Settings of learners: written once, in `__init__`, and listed by `from_episodes`."""

import inspect
from typing import Any

import pytest
from worlds import random_episodes

from pgdiff.agents import IQL, TD3BC, Cloning, FittedQ
from pgdiff.core.validation import PgdiffError
from pgdiff.critics import GoalValue, SegmentValue, TransitionValue
from pgdiff.data.fitting import FromEpisodes
from pgdiff.dynamics import DynamicsEnsemble, InverseDynamics

# Arguments of `from_episodes` that `__init__` lacks, or takes as fitted values.
BOUNDS = {"normalizer": "standard", "action_low": None, "action_high": None}
FITTED: dict[Any, dict[str, Any]] = {
    IQL: {**BOUNDS, "normalize_returns": False},
    TD3BC: BOUNDS,
    Cloning: BOUNDS,
    FittedQ: {"policies": inspect.Parameter.empty, "normalizer": "standard"},
    GoalValue: {"goal_features": None, "normalizer": "limits"},
    SegmentValue: {"normalizer": "limits"},
    TransitionValue: {"normalizer": "limits"},
    InverseDynamics: {},
    DynamicsEnsemble: {},
}


def test_settings_are_those_of_init_and_of_the_fit() -> None:
    for kind, fitted in FITTED.items():
        assert {*kind.fitted_arguments} <= {*inspect.signature(kind).parameters}
        settings = {
            name: parameter.default
            for name, parameter in inspect.signature(kind).parameters.items()
            if name not in kind.fitted_arguments
        }
        signature = inspect.signature(kind.from_episodes)
        found = {name: parameter.default for name, parameter in signature.parameters.items()}
        empty = inspect.Parameter.empty
        assert found == {"episodes": empty} | settings | fitted | {"seed": 0}
        assert [*found][:: len(found) - 1] == ["episodes", "seed"]  # the first and the last
        assert signature.return_annotation is kind


def test_defaults_are_those_of_init_and_settings_arrive() -> None:
    episodes = random_episodes()
    agent = IQL.from_episodes(episodes, members=1, width=8, expectile=0.8)
    defaults = inspect.signature(IQL).parameters
    assert (agent.expectile, agent.width) == (0.8, 8)
    assert (agent.tau, agent.depth) == (defaults["tau"].default, defaults["depth"].default)


@pytest.mark.usefixtures("unchecked")
def test_unknown_and_missing_settings_are_named() -> None:
    episodes = random_episodes()
    for kind, settings, message in (
        (IQL, {"temprature": 1.0}, r"`IQL\.from_episodes` has no argument 'temprature'.*'temp"),
        (IQL, {"reward_scale": 1.0}, r"has no argument 'reward_scale'"),  # it is fitted
        (GoalValue, {}, r"`GoalValue\.from_episodes` needs `stride`, which is missing"),
        (FittedQ, {"width": 8}, r"needs `policies`, which is missing"),
        (TransitionValue, {"stride": 1, "seed": -1}, r"`seed` must be an integer"),
    ):
        with pytest.raises(PgdiffError, match=message):
            kind.from_episodes(episodes, **settings)


def test_a_subclass_may_override_the_method() -> None:
    class Fixed(FromEpisodes):
        @classmethod
        def from_episodes(cls, episodes: Any, *, size: int = 3) -> Any:
            return size

    class Other(Fixed):
        pass

    for kind in (Fixed, Other):
        assert list(inspect.signature(kind.from_episodes).parameters) == ["episodes", "size"]
        assert kind.from_episodes(None) == 3
