"""Bad agents, environments and files: one error each, which names object and place."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import pgdiff.workflows.recording.collect
import pgdiff.workflows.recording.collect_mix
from pgdiff.core.validation import PgdiffError
from pgdiff.evaluation import evaluate, load_evaluation


class Walk(gym.Env):
    """Three steps; `broken` changes parts of its results."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    broken: dict[str, Any]

    def __init__(self, **broken: Any) -> None:
        self.broken = broken
        for name in ("observation_space", "action_space"):
            if name in broken:
                setattr(self, name, broken[name])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return self.broken.get("reset", (self._observation(), self.broken.get("info", {})))

    def step(self, action):
        assert self.left > 0, "stepped after its end"
        self.left -= 1
        result = (self._observation(), 0.0, self.left == 0, False, {})
        for place, name in enumerate(("observation", "reward")):
            if name in self.broken and self.left == 1:
                result = (*result[:place], self.broken[name], *result[place + 1 :])
        return self.broken.get("step", lambda whole: whole)(result)

    def _observation(self):
        return self.broken.get("always", np.zeros(2, dtype=np.float32))


class Still:
    """Actions of zero, or `action`; attributes describe the agent."""

    def __init__(self, action: Any = None, **attributes: Any) -> None:
        self.action = action
        self.__dict__.update(attributes)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        count = len(
            next(iter(observation.values())) if isinstance(observation, dict) else observation
        )
        return (np.zeros((count, 1)) if self.action is None else self.action), state


def with_state(agent: Any) -> Any:
    agent.initial_state = lambda seeds, condition=None: None
    return agent


@dataclass(frozen=True)
class Row:
    """A bad input: the change, and the words that the error must contain."""

    words: tuple[str, ...]
    env: Callable[[], Any] = Walk
    agent: Any = None
    arguments: dict[str, Any] | None = None


NAN = float("nan")
BOX = gym.spaces.Box(0, 1, (2,))
SPACES = {
    "dict": gym.spaces.Dict({"position": BOX, "desired_goal": BOX}),
    "tuple": gym.spaces.Tuple((BOX, BOX)),
    "text": gym.spaces.Text(5),
    "image": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "discrete": gym.spaces.Discrete(4),
}
MADE_FOR = {"observation_shape": (2,), "action_shape": (1,)}


def broken(**what: Any) -> Callable[[], Walk]:
    return lambda: Walk(**what)


ROWS = {
    # 31: an agent that was made for other spaces.
    "observations of another size": Row(
        ("`agent` must fit", "observations of shape (4,)", "'Walk'", "(2,)"),
        agent=Still(observation_shape=(4,)),
    ),
    "actions of another size": Row(
        ("`agent` must fit", "actions of shape (3,)", "'Walk'", "(1,)"),
        agent=Still(action_shape=(3,)),
    ),
    "images": Row(
        ("`agent` must fit", "(8, 8, 3)"),
        env=broken(observation_space=SPACES["image"]),
        agent=Still(**MADE_FOR),
    ),
    "discrete observations": Row(
        ("`agent` must fit", "observations of shape ()"),
        env=broken(observation_space=SPACES["discrete"]),
        agent=Still(**MADE_FOR),
    ),
    "discrete actions": Row(
        ("`agent` must fit", "actions of shape ()"),
        env=broken(action_space=SPACES["discrete"]),
        agent=Still(**MADE_FOR),
    ),
    "a Dict for an agent of arrays": Row(
        ("`agent` must accept", "'Walk'", "desired_goal", "FlattenObservation"),
        env=broken(observation_space=SPACES["dict"]),
        agent=Still(**MADE_FOR),
    ),
    "a Tuple": Row(
        ("observations are arrays", "Tuple"), env=broken(observation_space=SPACES["tuple"])
    ),
    "text": Row(("observations are arrays", "Text"), env=broken(observation_space=SPACES["text"])),
    "no environment at all": Row(("gymnasium.Env", "Got a NoneType"), env=lambda: None),
    "a vector of environments": Row(
        ("single environment", "SyncVectorEnv"),
        env=lambda: gym.vector.SyncVectorEnv([Walk, Walk]),
    ),
    # 32: NaN from the environment.
    "NaN in the first observation": Row(
        ("observations must be finite", "'Walk'", "feature 1", "reset with seed 7"),
        env=broken(always=np.array([0.0, NAN])),
    ),
    "NaN in an observation": Row(
        ("observations must be finite", "nan in feature 0", "step 2", "seed 7"),
        env=broken(observation=np.array([NAN, 0.0])),
    ),
    "an infinite observation": Row(
        ("observations must be finite", "-inf in feature 1", "step 2"),
        env=broken(observation=np.array([0.0, -np.inf])),
    ),
    "NaN in a Dict": Row(
        ("observations must be finite", "feature 1 of 'desired_goal'", "reset with seed 7"),
        env=broken(
            observation_space=SPACES["dict"],
            always={"position": np.zeros(2), "desired_goal": np.array([0.0, NAN])},
        ),
        agent=Still(observation_space=SPACES["dict"]),
    ),
    "NaN reward": Row(
        ("rewards must be finite", "'Walk' gave nan", "step 2", "seed 7"), env=broken(reward=NAN)
    ),
    "infinite reward": Row(("rewards must be finite", "inf"), env=broken(reward=np.inf)),
    "no info": Row(
        ("a dict as info", "'Walk' returned None", "step 1", "seed 7"),
        env=broken(step=lambda whole: (*whole[:4], None)),
    ),
    "no reward": Row(("rewards must be finite", "None"), env=broken(reward=None)),
    "a reward for each feature": Row(
        ("rewards must be finite", "array"), env=broken(reward=np.zeros(2))
    ),
    # 33: Gym's older interface.
    "a step of four values": Row(
        ("(observation, reward, terminated, truncated, info)", "4 values", "shimmy"),
        env=broken(step=lambda r: (r[0], r[1], r[2], r[4])),
    ),
    "a step of four values in a wrapper": Row(
        ("(observation, reward, terminated, truncated, info)", "Walk", "shimmy"),
        env=lambda: gym.wrappers.TimeLimit(
            Walk(step=lambda r: (r[0], r[1], r[2], r[4])), max_episode_steps=9
        ),
    ),
    "a reset without info": Row(
        ("(observation, info)", "a ndarray", "shimmy"), env=broken(reset=np.zeros(2))
    ),
    # Actions.
    "an action for each environment is missing": Row(
        ("one action per observation", "(2, 1)", "Got shape (1, 1)"), agent=Still(np.zeros((1, 1)))
    ),
    "actions of two numbers": Row(
        ("one action per observation", "Got shape (2, 2)"), agent=Still(np.zeros((2, 2)))
    ),
    "actions with an axis too many": Row(
        ("one action per observation", "Got shape (2, 1, 1)"), agent=Still(np.zeros((2, 1, 1)))
    ),
    "NaN action": Row(("finite actions", "row 1"), agent=Still(np.array([[0.0], [NAN]]))),
    "infinite action": Row(("finite actions", "row 0"), agent=Still(np.array([[np.inf], [0.0]]))),
    "actions that are words": Row(("must return numbers",), agent=Still(np.array([["a"], ["b"]]))),
    # Goals.
    "no goal for an agent that wants one": Row(
        ("`info['goal']`", "'Walk' returned none for seed 7"),
        agent=with_state(Still(condition_keys=("goal",))),
    ),
    "a goal that is not finite": Row(
        ("`info['goal']` must be finite", "seed 7"),
        env=broken(info={"goal": [0.0, NAN]}),
        agent=with_state(Still(condition_keys=("goal",))),
    ),
    # Arguments.
    "no episodes": Row(("`episodes`", "at least 1", "Got 0"), arguments={"episodes": 0}),
    "half an episode": Row(("`episodes`", "Got 0.5"), arguments={"episodes": 0.5}),
    "a negative seed": Row(("`seed`", "Got -1"), arguments={"seed": -1}),
    "seeds beyond the largest": Row(
        ("`seed + episodes`", "2^63"), arguments={"seed": 2**63 - 1, "episodes": 2}
    ),
    "nothing side by side": Row(("`parallel`", "Got 0"), arguments={"parallel": 0}),
    "a negative record": Row(("`record`", "Got -1"), arguments={"record": -1}),
}


def test_each_is_refused() -> None:
    for name, row in ROWS.items():
        made: list[Any] = []

        def make(row: Row = row, made: list[Any] = made) -> Any:
            made.append(row.env())
            return made[-1]

        agent = Still() if row.agent is None else row.agent
        arguments = {"episodes": 2, "seed": 7, "progress": False} | (row.arguments or {})
        with pytest.raises(PgdiffError) as error:
            evaluate(agent, make, **arguments)
        for word in row.words:
            assert word in str(error.value), name
        for env in made:
            if isinstance(env, gym.vector.VectorEnv):
                env.close()


# Unusual but sound inputs are accepted, by the rule at each.
SOUND = {
    "action bounds that are infinite": (
        broken(action_space=gym.spaces.Box(-np.inf, np.inf, (1,))),
        Still(),
    ),
    "actions outside their bounds are the environment's business": (
        Walk,
        Still(np.full((2, 1), 9)),
    ),
    "observations outside their bounds": (broken(observation=np.full(2, 1e6)), Still()),
    "a Dict for an agent that takes one": (
        broken(
            observation_space=SPACES["dict"],
            always={"position": np.zeros(2), "desired_goal": np.ones(2)},
        ),
        Still(observation_space=SPACES["dict"]),
    ),
    "images for an agent that does not say": (
        broken(observation_space=SPACES["image"], always=np.zeros((8, 8, 3), np.uint8)),
        Still(),
    ),
    "a reward of NumPy": (broken(reward=np.float32(1.0)), Still()),
    "a reward in an array": (broken(reward=np.array(1.0)), Still()),
    "a reward in an array of one": (broken(reward=np.array([1.0], np.float32)), Still()),
    "a goal for an agent that wants none": (broken(info={"goal": "north"}), Still()),
    "a goal for one that does": (
        broken(info={"goal": [1, 2]}),
        with_state(Still(condition_keys=("goal",))),
    ),
}


def test_each_is_accepted() -> None:
    """`Walk` itself fails if it is stepped after its end."""
    for name, (env, agent) in SOUND.items():
        found = evaluate(agent, env, episodes=2, seed=7, progress=False, record=1)
        assert found.lengths.tolist() == [3, 3], name
        assert len(found.trajectories) == 1 and len(found.trajectories[0]) == 4, name


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "not an object": (lambda c: [c], "`per_episode` must be an object"),
    "no episodes' numbers": (lambda c: c.pop("per_episode"), "`per_episode` must be an object"),
    "no returns": (lambda c: c["per_episode"].pop("returns"), "`per_episode.returns`"),
    "empty": (lambda c: c["per_episode"].update(returns=[]), "at least one episode"),
    "a score too few": (
        lambda c: c["per_episode"]["normalized_scores"].pop(),
        "`per_episode.normalized_scores` must be a list of 2 values",
    ),
    "a word among the returns": (
        lambda c: c["per_episode"]["returns"].__setitem__(1, "x"),
        "`per_episode.returns[1]` must be a number, not 'x'",
    ),
    "NaN": (
        lambda c: c["per_episode"]["returns"].__setitem__(0, NAN),
        "NaN is not a number",
    ),
    "a number for a flag": (
        lambda c: c["per_episode"]["successes"].__setitem__(1, 1),
        "`per_episode.successes[1]` must be true or false, not 1",
    ),
    "half a step": (
        lambda c: c["per_episode"].update(lengths=[1.5, 2]),
        "`per_episode.lengths` must be integers",
    ),
    "goals of two sizes": (
        lambda c: c["per_episode"].update(goals=[[1, 2], [1]]),
        "`per_episode.goals[1]`",
    ),
    "no settings": (lambda c: c.pop("settings"), "`settings` must be an object"),
    "a seed that is a word": (lambda c: c["settings"].update(seed="x"), "`settings.seed`"),
    "no wall-clock": (lambda c: c.pop("seconds"), "`seconds`"),
    "negative plans": (lambda c: c.update(plans=-1), "`plans`"),
    "a newer format": (lambda c: c.update(format=99), "has format 99"),
}


class Endless(Walk):
    """Never ends."""

    def step(self, action):
        return self._observation(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Endless, r"'Endless' has no known time limit, .* seed 0 did not end within 200 steps"),
        (
            lambda: gym.make("Pendulum-v1", max_episode_steps=-1),
            "'Pendulum-v1' is registered with 200 steps. Got none",
        ),
    ],
)
def test_an_environment_that_never_ends_is_refused(
    make: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgdiff.evaluation.time_limits.LONGEST", 200)
    with pytest.raises(PgdiffError, match=rf"must have .*{message}.*TimeLimit"):
        evaluate(Still(), make, episodes=1, progress=False)
    env, rows = make(), 300
    with pytest.raises(PgdiffError, match=r"`env` must have .*TimeLimit"):
        pgdiff.workflows.recording.collect.collect(
            env, tmp_path / "a.hdf5", steps=rows, seed=0, expert=Single(), progress=False
        )
    mix = pgdiff.workflows.recording.collect_mix.Mix(
        name="one", parts=[pgdiff.workflows.recording.collect_mix.Part()]
    )
    with pytest.raises(PgdiffError, match=r"`env` must have .*TimeLimit"):
        pgdiff.workflows.recording.collect_mix.collect_mix(
            env, tmp_path / "b.hdf5", agents=[Still()], mix=mix, steps=rows, seed=0, progress=False
        )
    assert list(tmp_path.iterdir()) == []
    if isinstance(env, Endless):  # with a limit it is like any other
        found = evaluate(
            Still(), lambda: gym.wrappers.TimeLimit(make(), 7), episodes=2, progress=False
        )
        assert found.lengths.tolist() == [7, 7]


class Single(Still):
    """Acts on one observation."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(1), state


def test_numpys_integers_are_integers_to_the_file(tmp_path: Path) -> None:
    class Odd(gym.Wrapper, gym.utils.RecordConstructorArgs):
        def __init__(self, env: Any, **settings: Any) -> None:
            gym.utils.RecordConstructorArgs.__init__(self, **settings)
            gym.Wrapper.__init__(self, env)

    gym.register("Walk-v0", entry_point=Walk, max_episode_steps=5)
    settings = {"low": -np.inf, "count": np.int32(3), "parts": (1, [np.float32(2)], object())}
    try:
        found = evaluate(
            Still(),
            lambda: Odd(gym.make("Walk-v0"), **settings),
            episodes=np.int64(3),
            seed=np.int32(2**31 - 2),
            parallel=np.int64(2),
            record=np.int64(1),
            progress=False,
        )
    finally:
        del gym.registry["Walk-v0"]
    content = json.loads(found.to_json(tmp_path / "evaluation.json").read_text())
    assert content["per_episode"]["seeds"] == [2**31 - 2, 2**31 - 1, 2**31]
    odd = content["settings"]["wrappers"]["Odd"]
    assert odd == {"low": "-inf", "count": 3, "parts": [1, [2.0], "object"]}


def test_a_sum_of_rewards_that_is_not_finite_is_named() -> None:
    class Rich(Walk):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return (observation, 1.5e308, *rest)

    with pytest.raises(PgdiffError, match=r"finite sum.* after step 2 of the episode with seed 4"):
        evaluate(Still(), Rich, episodes=1, seed=4, progress=False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    class Scored(Walk):
        def normalized_score(self, total: float) -> float:
            return total

        def step(self, action):
            return (*super().step(action)[:4], {"is_success": self.left == 1})

    found = evaluate(Still(), Scored, episodes=2, progress=False)
    return found.to_json(tmp_path / "evaluation.json")


def test_a_damaged_file_is_refused(saved: Path) -> None:
    whole = saved.read_text()
    for name, (change, message) in DAMAGE.items():
        content = json.loads(whole)
        changed = change(content)
        saved.write_text(
            json.dumps(changed if isinstance(changed, list) and changed[0] is content else content)
        )
        with pytest.raises(PgdiffError) as error:
            load_evaluation(saved)
        assert message in str(error.value), name
        assert str(saved) in str(error.value)


def test_files_that_are_truncated_or_not_json_are_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    cut = [whole[:length] for length in range(0, len(whole) - 2, 97)]
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, *cut):
        saved.write_bytes(content)
        with pytest.raises(PgdiffError, match="is not a saved evaluation, or it is damaged"):
            load_evaluation(saved)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match=r"Got '.*nowhere"):
        load_evaluation(tmp_path / "nowhere.json")
    with pytest.raises(PgdiffError, match=r"folder with one. Got"):
        load_evaluation(tmp_path)
