"""Stable-Baselines3's buffers, filled step by step by `add`."""

from itertools import product

import gymnasium
import numpy as np
import pytest
from foreign_writers import LAYOUT, LENGTHS, add, by_buffer, episodes_of, spaces_of, walks
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, from_replay_buffer, load_episodes, to_replay_buffer

NAMES = ("observations", "actions", "rewards", "terminals", "timeouts")


def test_a_ring_that_has_wrapped_round() -> None:
    """The newest rows are returned, oldest first."""
    for goals, size in product((False, True), (30, 72)):
        fields, layout = walks(goals=goals), LAYOUT if goals else None
        episodes = from_replay_buffer(by_buffer(fields, layout, size=size))
        newest = episodes_of({name: values[-size:] for name, values in fields.items()}, layout)
        assert episodes.steps == size
        for name, values in newest.fields().items():
            assert np.array_equal(episodes.fields()[name], values), name
        assert np.array_equal(episodes.ends, newest.ends)


def test_several_environments_one_after_the_other() -> None:
    for full in (False, True):
        read_environments(full)


def read_environments(full: bool) -> None:
    parts = [walks(goals=False, lengths=lengths) for lengths in ((5, 9, 6), (11, 9), (20,))]
    together = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    space, action_space = spaces_of(together, None)
    size = 14 if full else 50
    buffer = ReplayBuffer(3 * size, space, action_space, device="cpu", n_envs=3)
    for step in range(20):
        add(buffer, together, None, [step, 20 + step, 40 + step])
    episodes = from_replay_buffer(buffer)
    kept = 14 if full else 20
    for number, part in enumerate(parts):
        rows = slice(number * kept, (number + 1) * kept)
        for name in ("observations", "next_observations", "actions", "rewards", "terminals"):
            assert np.array_equal(getattr(episodes, name)[rows], part[name][-kept:]), name
    # An unfinished episode is cut off where the next environment's rows start.
    cuts = np.concatenate([p["timeouts"][-kept:] for p in parts])
    cuts[[kept - 1, 2 * kept - 1]] = True
    assert np.array_equal(episodes.timeouts, cuts)
    assert episodes.lengths.tolist() == ([8, 6, 5, 9, 14] if full else [5, 9, 6, 11, 9, 20])


def test_optimize_memory_usage() -> None:
    fields = walks(goals=False)
    fields["terminals"] |= fields["timeouts"]  # this buffer does not distinguish them
    fields["timeouts"][:] = False
    for size in (40, 73, 200):
        buffer = by_buffer(
            fields, size=size, optimize_memory_usage=True, handle_timeout_termination=False
        )
        episodes = from_replay_buffer(buffer)
        kept = min(size - 1, 73)
        assert episodes.steps == kept
        for name in NAMES:
            assert np.array_equal(getattr(episodes, name), fields[name][-kept:]), name
        assert episodes.next_observations is None


def test_a_buffer_that_keeps_no_time_limits() -> None:
    fields = walks(goals=False)
    buffer = by_buffer(fields, handle_timeout_termination=False)
    episodes = from_replay_buffer(buffer)
    assert np.array_equal(episodes.terminals, fields["terminals"] | fields["timeouts"])
    assert not episodes.timeouts.any()
    assert episodes.lengths.tolist() == list(LENGTHS)


def test_samples_are_the_recorded_transitions() -> None:
    """Every sample of an agent is a recorded row, and its done is the row's terminal."""
    fields = walks(goals=True)
    buffer = to_replay_buffer(episodes_of(fields, LAYOUT), device="cpu")
    assert isinstance(buffer, DictReplayBuffer)
    np.random.seed(0)  # noqa: NPY002  Stable-Baselines3 draws from it
    batch = buffer.sample(500)
    flat, goal = LAYOUT.flatten({key: x.numpy() for key, x in batch.observations.items()})
    after, next_goal = LAYOUT.flatten({k: x.numpy() for k, x in batch.next_observations.items()})
    rows = np.argmin(((flat[:, None] - fields["observations"]) ** 2).sum(-1), axis=1)
    assert len(np.unique(rows)) > 60
    for values, name in (
        (flat, "observations"),
        (after, "next_observations"),
        (goal, "infos/goal"),
        (next_goal, "infos/next_goal"),
        (batch.actions.numpy(), "actions"),
        (batch.rewards.numpy()[:, 0], "rewards"),
        (batch.dones.numpy()[:, 0], "terminals"),
    ):
        assert np.array_equal(values, fields[name][rows]), name


def test_a_terminal_that_is_also_a_timeout_stays_a_terminal() -> None:
    fields = walks(goals=False)
    end = int(np.flatnonzero(fields["terminals"])[0])
    fields["timeouts"][end] = True
    again = from_replay_buffer(to_replay_buffer(episodes_of(fields), device="cpu"))
    assert again.terminals[end] and not again.timeouts[end]
    assert again.lengths.tolist() == list(LENGTHS)


def test_without_next_observations_rows_with_unknown_successors_are_dropped() -> None:
    """A cut-off row that is its own successor would be learned from itself."""
    for goals in (False, True):
        drop_unknown_successors(goals)


def drop_unknown_successors(goals: bool) -> None:
    fields, layout = walks(goals=goals), LAYOUT if goals else None
    short = {name: x for name, x in fields.items() if "next_" not in name}
    buffer = to_replay_buffer(episodes_of(short, layout), device="cpu")
    again = from_replay_buffer(buffer)
    ends = np.cumsum(LENGTHS) - 1
    cut = ends[~fields["terminals"][ends]]
    kept = np.setdiff1d(np.arange(sum(LENGTHS)), cut)
    assert len(cut) == 3 and buffer.size() == len(kept)
    last = fields["terminals"][kept]
    for name, following, values in (
        ("observations", again.next_observations, again.observations),
        ("infos/goal", again.infos.get("next_goal"), again.infos.get("goal")),
    ):
        if values is not None:
            assert np.array_equal(values, fields[name][kept])
            assert np.array_equal(following[~last], fields[name][kept + 1][~last])
            assert np.array_equal(following[last], values[last])
    before = np.isin(kept + 1, cut)  # these rows are now the last of their episodes
    assert np.array_equal(again.timeouts | again.terminals, before | last)
    one_row = {name: x[26:27] for name, x in short.items()}  # a timeout
    with pytest.raises(PgdiffError, match="a row whose next observation is known"):
        to_replay_buffer(episodes_of(one_row, layout))


def test_actions_that_cannot_be_scaled_are_refused() -> None:
    """A buffer that was filled manually with actions in the units of the environment."""
    fields = walks(goals=False)
    fields["actions"] *= 2
    space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    buffer = by_buffer(fields)
    buffer.action_space = space
    row = np.flatnonzero((np.abs(fields["actions"]) > 1).any(axis=1))[0]
    with pytest.raises(PgdiffError, match=rf"`actions`, row {row}: must lie in .*scaled_actions=F"):
        load_episodes(buffer)
    raw = from_replay_buffer(buffer, scaled_actions=False)
    assert np.array_equal(raw.actions, fields["actions"])
    scaled = to_replay_buffer(raw, action_space=space, device="cpu")
    assert np.abs(scaled.actions).max() <= 1
    np.testing.assert_allclose(load_episodes(scaled).actions, fields["actions"], atol=1e-6)
    narrow = gymnasium.spaces.Box(-0.5, 2, (2,), np.float32)
    with pytest.raises(PgdiffError, match="`action_space` must contain the recorded actions"):
        to_replay_buffer(raw, action_space=narrow)


def test_actions_of_an_agent_are_scaled_back() -> None:
    """Stable-Baselines3's agents store actions in [-1, 1] whatever the environment's bounds."""
    agent = SAC(
        "MlpPolicy",
        "Pendulum-v1",
        learning_starts=500,
        buffer_size=100,
        policy_kwargs={"net_arch": [4]},
        device="cpu",
    )
    agent.learn(60)
    stored = agent.replay_buffer.actions[:60, 0]
    assert np.abs(stored).max() <= 1
    episodes = load_episodes(agent.replay_buffer)
    np.testing.assert_allclose(episodes.actions, 2 * stored, rtol=1e-6)
    raw = from_replay_buffer(agent.replay_buffer, scaled_actions=False)
    assert np.array_equal(raw.actions, stored)
    space = gymnasium.make("Pendulum-v1").action_space
    again = to_replay_buffer(episodes, action_space=space, device="cpu")
    np.testing.assert_allclose(again.actions[:, 0], stored, atol=1e-6)


def test_join_continuous() -> None:
    fields = walks(goals=False)
    fields["observations"] = np.arange(73, dtype=np.float32)[:, None].repeat(3, 1)
    fields["next_observations"] = fields["observations"] + 1
    assert len(load_episodes(by_buffer(fields), join_continuous=True)) == 1


def bad_buffers() -> dict[str, tuple[object, str]]:
    box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    discrete = gymnasium.spaces.Discrete(3)
    image = gymnasium.spaces.Box(0, 255, (4, 4, 1), np.uint8)
    wide = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    nan = by_buffer(walks(goals=False))
    nan.rewards[17] = np.nan
    return {
        "a list": ([1, 2], "Stable-Baselines3 ReplayBuffer. Got list"),
        "empty": (ReplayBuffer(5, box, box, device="cpu"), "at least one row. Got an empty"),
        "discrete actions": (
            ReplayBuffer(5, box, discrete, device="cpu"),
            "Actions must have a flat Box",
        ),
        "discrete states": (by_one(discrete, box), "Observations must have a flat Box"),
        "images": (by_one(image, box), "Observations must have a flat Box"),
        "unbounded actions": (ReplayBuffer(5, box, wide, device="cpu"), "scaled_actions=False"),
        "NaN": (nan, "`rewards`, row 17: is NaN"),
    }


def by_one(space: gymnasium.Space, action_space: gymnasium.Space) -> ReplayBuffer:
    buffer = ReplayBuffer(5, space, action_space, device="cpu")
    buffer.pos = 1
    return buffer


def test_bad_buffers() -> None:
    for buffer, message in bad_buffers().values():
        with pytest.raises(PgdiffError, match=message.replace(".", r"\.")):
            load_episodes(buffer)


def test_bad_spaces() -> None:
    episodes: Episodes = episodes_of(walks(goals=False))
    box = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    with pytest.raises(PgdiffError, match="`observation_space` must have the recording's 3"):
        to_replay_buffer(episodes, observation_space=box)
    with pytest.raises(PgdiffError, match="`observation_space` must have the recording's 3"):
        to_replay_buffer(episodes, observation_space=LAYOUT.space())
    with pytest.raises(PgdiffError, match="`action_space` must be a Box of 2"):
        to_replay_buffer(episodes, action_space=box)
    fields = walks(goals=False)
    fields["actions"] *= 3
    with pytest.raises(PgdiffError, match="`action_space` must be given, because actions reach 2"):
        to_replay_buffer(episodes_of(fields))
    with pytest.raises(PgdiffError, match="`episode_length` is for files"):
        load_episodes(by_buffer(walks(goals=False)), episode_length=5)
