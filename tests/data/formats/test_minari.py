"""Reading and writing Minari's local store, with Minari as the oracle."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from foreign_writers import LAYOUT, LENGTHS, by_minari, episodes_of, walks
from minari.data_collector import EpisodeBuffer

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes, ObservationLayout, check, load_episodes, write_minari


@pytest.mark.parametrize("goals", [False, True], ids=["flat", "Dict"])
def test_minari_loads_what_is_written(store: Path, goals: bool) -> None:
    fields, layout = walks(goals=goals), LAYOUT if goals else None
    folder = write_minari(
        episodes_of(fields, layout),
        "deep/space/walks-v2",
        author="someone",
        description="random walks",
        env_id="CartPole-v1",
        action_space=gymnasium.spaces.Box(-1, 1, (2,), np.float32),
    )
    assert folder == store / "deep" / "space" / "walks-v2"
    read = minari.load_dataset("deep/space/walks-v2")
    assert read.total_episodes == len(LENGTHS) and read.total_steps == sum(LENGTHS)
    assert read.action_space == gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    assert read.spec.env_spec is not None and read.spec.env_spec.id == "CartPole-v1"
    assert list(minari.list_local_datasets()) == ["deep/space/walks-v2"]
    first = 0
    for episode, length in zip(read.iterate_episodes(), LENGTHS, strict=True):
        rows = slice(first, first + length)
        assert len(episode.rewards) == length
        for name, values in (
            ("actions", episode.actions),
            ("rewards", episode.rewards),
            ("terminals", episode.terminations),
            ("timeouts", episode.truncations),
        ):
            assert np.array_equal(values, fields[name][rows])
        if layout is None:
            flat = episode.observations
            assert flat[0] in read.observation_space
        else:
            assert {key: values[0] for key, values in episode.observations.items()} in (
                read.observation_space
            )
            flat, goal = layout.flatten(episode.observations)
            assert np.array_equal(goal[:-1], fields["infos/goal"][rows])
            assert np.array_equal(goal[-1], fields["infos/next_goal"][rows][-1])
        assert np.array_equal(flat[:-1], fields["observations"][rows])
        assert np.array_equal(flat[1:], fields["next_observations"][rows])
        first += length


def test_the_layout_of_a_dict_is_by_name_without_the_goal(store: Path) -> None:
    episodes = load_episodes(by_minari(walks(goals=True), "walks-v0", LAYOUT))
    assert episodes.observation_layout == ObservationLayout(
        fields=(("achieved_goal", 2), ("observation", 3)), goal=("desired_goal", 2), position=(0, 1)
    )
    assert episodes.infos["goal"].shape == (sum(LENGTHS), 2)
    assert isinstance(episodes.observations.base, np.memmap)


def test_n_observations_for_n_actions(store: Path) -> None:
    """N observations of N steps (Minari, GitHub #199): the last one is unknown and not invented."""
    fields = walks(goals=True)
    episodes = load_episodes(by_minari(fields, "short-v0", LAYOUT, short=True))
    assert episodes.next_observations is None and "next_goal" not in episodes.infos
    for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
        assert np.array_equal(getattr(episodes, name), fields[name])
    assert np.array_equal(episodes.infos["goal"], fields["infos/goal"])
    assert check("short-v0") == []


def test_one_short_episode_among_whole_ones(store: Path) -> None:
    fields = walks(goals=False)
    by_minari(fields, "mixed-v0")
    with h5py.File(store / "mixed-v0" / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/observations"].resize(LENGTHS[1], axis=0)
    episodes = load_episodes("mixed-v0")
    assert episodes.next_observations is None
    assert np.array_equal(episodes.observations, fields["observations"])


def test_without_next_observations_minari_gets_the_last_one_twice(store: Path) -> None:
    fields = walks(goals=False)
    del fields["next_observations"]
    write_minari(episodes_of(fields), "walks-v0")
    first = minari.load_dataset("walks-v0")[0].observations
    assert len(first) == LENGTHS[0] + 1
    assert np.array_equal(first[-1], first[-2])


def test_an_episode_without_a_mark_ends_with_a_timeout(store: Path) -> None:
    fields = walks(goals=False)
    by_minari(fields, "walks-v0")
    with h5py.File(store / "walks-v0" / "data" / "main_data.hdf5", "a") as file:
        for number in range(len(LENGTHS)):
            file[f"episode_{number}/terminations"][:] = False
            file[f"episode_{number}/truncations"][:] = False
    episodes = load_episodes("walks-v0")
    assert episodes.lengths.tolist() == list(LENGTHS)
    assert not episodes.terminals.any()
    ends = np.cumsum(LENGTHS) - 1
    assert np.flatnonzero(episodes.timeouts).tolist() == ends[:-1].tolist()


def test_one_episode_without_a_mark_is_unfinished(store: Path) -> None:
    fields = walks(goals=False, lengths=(9,))
    episodes = load_episodes(by_minari(fields, "one-v0"))
    assert episodes.lengths.tolist() == [9] and not episodes.timeouts.any()
    assert check("one-v0") == []
    assert load_episodes("one-v0").lengths.tolist() == [9]  # now from the cache


def test_infos_that_not_all_episodes_have_are_dropped(store: Path) -> None:
    by_minari(walks(goals=False), "walks-v0")
    with h5py.File(store / "walks-v0" / "data" / "main_data.hdf5", "a") as file:
        for number, length in enumerate(LENGTHS):
            group = file[f"episode_{number}"]
            group["infos/qpos"] = np.full((length + 1, 2), number, np.float64)
            group["infos/goal"] = np.zeros((length, 2 if number < 2 else 3))
            group["infos/success"] = np.full(length, np.nan)
            if number != 1:
                group["infos/qvel"] = np.zeros((length, 1))
    episodes = load_episodes("walks-v0")
    assert list(episodes.infos) == ["qpos"]
    assert np.array_equal(episodes.infos["qpos"][:, 1], np.repeat(np.arange(5), LENGTHS))


def test_a_folder_is_as_good_as_an_id(store: Path, monkeypatch) -> None:
    folder = store / by_minari(walks(goals=False), "walks-v0")
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    for path in (folder, folder / "data"):
        assert load_episodes(path).steps == sum(LENGTHS)


def test_an_id_that_is_not_in_the_store(store: Path) -> None:
    for look in (load_episodes, check):
        with pytest.raises(PgdiffError, match="minari download D4RL/pointmaze/umaze-v2") as error:
            look("D4RL/pointmaze/umaze-v2")
        assert str(store) in str(error.value) and "MINARI_DATASETS_PATH" in str(error.value)


def test_invalid_ids_are_not_written(store: Path) -> None:
    for name in ("../outside-v0", "/outside-v0", "noversion", "a b-v0", ""):
        with pytest.raises(PgdiffError, match=r"`dataset_id` must be like 'namespace/name-v0'"):
            write_minari(episodes_of(walks(goals=False)), name)
    assert list(store.iterdir()) == []


def test_an_id_that_is_taken(store: Path) -> None:
    one, two = (episodes_of(walks(goals=False, seed=seed)) for seed in (0, 1))
    write_minari(one, "walks-v0")
    with pytest.raises(PgdiffError, match="overwrite=True"):
        write_minari(two, "walks-v0")
    assert np.array_equal(load_episodes("walks-v0").rewards, one.rewards)
    write_minari(two, "walks-v0", overwrite=True)
    assert np.array_equal(load_episodes("walks-v0").rewards, two.rewards)
    assert [item.name for item in store.iterdir()] == ["walks-v0"]


def test_a_failed_write_leaves_nothing(store: Path, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_minari(episodes_of(walks(goals=False)), "walks-v0")
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("fails", [1, 2])
def test_an_interrupted_replacement_keeps_the_old_one(store: Path, monkeypatch, fails: int) -> None:
    one, two = (episodes_of(walks(goals=False, seed=seed)) for seed in (0, 1))
    write_minari(one, "deep/walks-v0")
    rename, calls = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == fails:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_minari(two, "deep/walks-v0", overwrite=True)
    assert np.array_equal(load_episodes("deep/walks-v0").rewards, one.rewards)
    assert [item.name for item in store.iterdir()] == ["deep"]
    # Killed between the two renames: the next write restores the old data set first.
    (store / "deep" / "walks-v0").rename(store / "deep" / ".walks-v0.old")
    with pytest.raises(PgdiffError, match="`dataset_id` must be new"):
        write_minari(two, "deep/walks-v0")
    assert np.array_equal(load_episodes("deep/walks-v0").rewards, one.rewards)


def test_infos_of_flat_observations_are_kept_unchanged(store: Path) -> None:
    episodes = episodes_of(walks(goals=False))
    goals = np.random.default_rng(3).normal(size=(2, episodes.steps, 2)).astype(np.float32)
    write_minari(replace(episodes, infos={"next_goal": goals[1]}), "one-v0")
    write_minari(replace(episodes, infos={"goal": goals[0], "next_goal": goals[1]}), "both-v0")
    assert np.array_equal(load_episodes("one-v0").infos["next_goal"], goals[1])
    assert np.array_equal(load_episodes("both-v0").infos["goal"], goals[0])


def test_an_environment_may_be_named_with_its_module(store: Path) -> None:
    write_minari(episodes_of(walks(goals=False)), "walks-v0", env_id="pgdiff_envs:maze2d-umaze-v1")
    spec = minari.load_dataset("walks-v0").spec.env_spec
    assert spec is not None and spec.id == "maze2d-umaze-v1"


def test_next_observations_that_do_not_follow(store: Path) -> None:
    fields = walks(goals=False)
    fields["next_observations"][31, 2] += 1
    with pytest.raises(PgdiffError, match=r"`next_observations`, row 31: .* of row 32") as error:
        write_minari(episodes_of(fields), "walks-v0")
    assert "dataclasses.replace" in str(error.value)
    assert list(store.iterdir()) == []


def test_an_unknown_environment_and_an_unfit_space(store: Path) -> None:
    episodes = episodes_of(walks(goals=False))
    with pytest.raises(PgdiffError, match="`env_id` must be a registered"):
        write_minari(episodes, "walks-v0", env_id="Nothing-v0")
    with pytest.raises(PgdiffError, match="`action_space` must be a Box of 2"):
        write_minari(episodes, "walks-v0", action_space=gymnasium.spaces.Discrete(2))


def test_a_changed_data_set_is_read_again(store: Path) -> None:
    write_minari(episodes_of(walks(goals=False)), "walks-v0")
    load_episodes("walks-v0")
    metadata = store / "walks-v0" / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(content | {"total_episodes": 2}))
    assert len(load_episodes("walks-v0")) == 2
    caches = list((store / "walks-v0" / "data" / "main_data.hdf5.cache").iterdir())
    assert len(caches) == 1


def test_no_environment_is_made(store: Path, monkeypatch) -> None:
    """Neither an environment nor its specification is created, whatever the metadata contain."""
    write_minari(episodes_of(walks(goals=False)), "walks-v0")
    metadata = store / "walks-v0" / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    del content["observation_space"], content["action_space"]
    content["env_spec"] = json.dumps({"id": "Evil-v0", "entry_point": "evil:Environment"})
    metadata.write_text(json.dumps(content))

    def refuse(*_, **__):
        raise AssertionError("an environment was requested")

    for owner, name in (
        (gymnasium, "make"),
        (gymnasium, "spec"),
        (gymnasium.envs.registration, "load_env_creator"),
        (gymnasium.envs.registration.EnvSpec, "from_json"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    assert load_episodes("walks-v0").steps == sum(LENGTHS)
    assert check("walks-v0") == []


def point_maze(dataset_id: str, *, episodes: int, limit: int) -> list[dict[str, np.ndarray]]:
    """Record Gymnasium-Robotics' PointMaze; return the observations of the environment."""
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make("PointMaze_UMaze-v3", max_episode_steps=limit)
        env.action_space.seed(0)
        buffers, all_seen = [], []
        for seed in range(episodes):
            observation, _ = env.reset(seed=seed)
            seen, actions, rewards, marks = [observation], [], [], []
            done = False
            while not done:
                action = env.action_space.sample()
                observation, reward, terminated, truncated, _ = env.step(action)
                seen.append(observation)
                actions.append(action)
                rewards.append(reward)
                marks.append((terminated, truncated))
                done = terminated or truncated
            stacked = {key: np.stack([x[key] for x in seen]) for key in seen[0]}
            terminations, truncations = zip(*marks, strict=True)
            buffers.append(
                EpisodeBuffer(
                    observations=stacked,
                    actions=np.stack(actions),
                    rewards=rewards,
                    terminations=list(terminations),
                    truncations=list(truncations),
                )
            )
            all_seen.append(stacked)
        minari.create_dataset_from_buffers(dataset_id, buffers, env="PointMaze_UMaze-v3")
        env.close()
    return all_seen


def test_a_recording_of_point_maze(store: Path) -> None:
    seen = point_maze("point/umaze-v0", episodes=3, limit=40)
    episodes = load_episodes("point/umaze-v0")
    assert episodes.lengths.tolist() == [40, 40, 40]
    assert episodes.timeouts.sum() == 3 and not episodes.terminals.any()
    layout = episodes.observation_layout
    assert layout is not None
    assert layout == ObservationLayout(
        fields=(("achieved_goal", 2), ("observation", 4)), goal=("desired_goal", 2), position=(0, 1)
    )
    for number, stacked in enumerate(seen):
        rows = slice(40 * number, 40 * number + 40)
        flat, goal = layout.flatten(stacked)
        assert np.array_equal(episodes.observations[rows], flat[:-1])
        assert np.array_equal(episodes.next_observations[rows], flat[1:])
        assert np.array_equal(episodes.infos["goal"][rows], goal[:-1])
        # A single observation, as in `predict`, is flattened in the same way.
        one = {key: values[0] for key, values in stacked.items()}
        assert np.array_equal(layout.flatten(one)[0], episodes.observations[rows][0])
    # In PointMaze the position is part of the state, so the features are equal.
    assert np.array_equal(
        episodes.observations[:, list(layout.position)], episodes.observations[:, 2:4]
    )
    write_minari(episodes, "point/again-v0", env_id="PointMaze_UMaze-v3")
    again = load_episodes("point/again-v0")
    assert_same(episodes, again)
    assert minari.load_dataset("point/again-v0").spec.env_spec.id == "PointMaze_UMaze-v3"


def assert_same(a: Episodes, b: Episodes) -> None:
    assert a.fields().keys() == b.fields().keys()
    assert all(np.array_equal(values, b.fields()[name]) for name, values in a.fields().items())
