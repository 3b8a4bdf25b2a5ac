"""The environment against an oracle based only on D4RL's publications.

The oracle writes the MuJoCo model out as D4RL's generator does (`d4rl/pointmaze/maze_model.py`,
`point_maze`): textures, materials, lights, sites and all, and steps it by D4RL's rules: clip the
command, clip the velocity and run `mj_forward` (`set_state`), one `mj_step`. Nothing of the
environment's own model is imported.
"""

import math
import xml.etree.ElementTree as ET

import gymnasium
import mujoco
import numpy as np
import pytest

# D4RL's layouts in its notation, rows separated by a backslash.
D4RL_LAYOUTS = {
    "open": r"#######\#OOOOO#\#OOGOO#\#OOOOO#\#######",
    "umaze": r"#####\#GOO#\###O#\#OOO#\#####",
    "medium": r"########\#OO##OO#\#OO#OOO#\##OOO###\#OO#OOO#\#O#OO#O#\#OOO#OG#\########",
    "large": r"############\#OOOO#OOOOO#\#O##O#O#O#O#\#OOOOOO#OOO#\#O####O###O#\#OO#O#OOOOO#"
    r"\##O#O#O#O###\#OO#OOO#OGO#\############",
    "eval-umaze": r"#####\#OOG#\#O###\#OOO#\#####",
    "eval-medium": r"########\#OOOOOG#\#O#O##O#\#OOOO#O#\###OO###\#OOOOOO#\#OO##OO#\########",
    "eval-large": r"############\#OO#OOO#OGO#\##O###O#O#O#\#OO#O#OOOOO#\#O##O#OO##O#"
    r"\#OOOOOO#OOO#\#O##O#O#O###\#OOOO#OOOOO#\############",
}
TASKS = {
    "open": ("maze2d-open-v0", "maze2d-open-dense-v0"),
    **{
        name: (f"maze2d-{name}-v1", f"maze2d-{name}-dense-v1")
        for name in D4RL_LAYOUTS
        if name != "open"
    },
}

# (step limit, score 0, score 100) from D4RL's d4rl/pointmaze/__init__.py.
D4RL_TASKS = {
    "maze2d-open-v0": (150, 0.01, 20.66),
    "maze2d-umaze-v1": (300, 23.85, 161.86),
    "maze2d-medium-v1": (600, 13.13, 277.39),
    "maze2d-large-v1": (800, 6.7, 273.99),
    "maze2d-eval-umaze-v1": (300, 36.63, 141.4),
    "maze2d-eval-medium-v1": (600, 13.07, 204.93),
    "maze2d-eval-large-v1": (800, 16.4, 302.22),
    "maze2d-open-dense-v0": (150, 11.17817, 27.166538620695782),
    "maze2d-umaze-dense-v1": (300, 68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (600, 44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (800, 30.569041, 303.4857382709002),
    "maze2d-eval-umaze-dense-v1": (300, 56.95455, 178.21373133248397),
    "maze2d-eval-medium-dense-v1": (600, 42.28578, 235.5658957482388),
    "maze2d-eval-large-dense-v1": (800, 56.95455, 326.09647655082637),
    # Diffuser normalises Multi2D by the scores of maze2d.
    "multi2d-umaze-v1": (300, 23.85, 161.86),
    "multi2d-medium-v1": (600, 13.13, 277.39),
    "multi2d-large-v1": (800, 6.7, 273.99),
}


def _node(parent: ET.Element, tag: str, **attributes: object) -> ET.Element:
    def text(value: object) -> str:
        if isinstance(value, bool | list):
            return " ".join(map(str, np.atleast_1d(value))).lower()
        return str(value)

    return ET.SubElement(parent, tag, {key: text(value) for key, value in attributes.items()})


def oracle_model(layout: str) -> mujoco.MjModel:
    root = ET.Element("mujoco", model="point_maze")
    # MuJoCo no longer has coordinate="local": it is the only kind.
    _node(root, "compiler", inertiafromgeom="true", angle="radian")
    _node(root, "option", timestep="0.01", gravity="0 0 0", iterations="20", integrator="Euler")
    default = _node(root, "default")
    _node(default, "joint", damping=1, limited="false")
    _node(
        default, "geom", friction=".5 .1 .1", density="1000", margin="0.002", condim="1",
        contype="2", conaffinity="1",
    )  # fmt: skip
    asset = _node(root, "asset")
    _node(
        asset, "texture", type="2d", name="groundplane", builtin="checker", rgb1="0.2 0.3 0.4",
        rgb2="0.1 0.2 0.3", width=100, height=100,
    )  # fmt: skip
    _node(
        asset, "texture", name="skybox", type="skybox", builtin="gradient", rgb1=".4 .6 .8",
        rgb2="0 0 0", width="800", height="800", mark="random", markrgb="1 1 1",
    )  # fmt: skip
    _node(asset, "material", name="groundplane", texture="groundplane", texrepeat="20 20")
    _node(asset, "material", name="wall", rgba=".7 .5 .3 1")
    _node(asset, "material", name="target", rgba=".6 .3 .3 1")
    visual = _node(root, "visual")
    _node(
        visual, "headlight", ambient=".4 .4 .4", diffuse=".8 .8 .8", specular="0.1 0.1 0.1"
    )  # fmt: skip
    _node(visual, "map", znear=0.01)
    _node(visual, "quality", shadowsize=2048)
    world = _node(root, "worldbody")
    _node(
        world, "geom", name="ground", size="40 40 0.25", pos="0 0 -0.1", type="plane", contype=1,
        conaffinity=0, material="groundplane",
    )  # fmt: skip
    particle = _node(world, "body", name="particle", pos=[1.2, 1.2, 0])
    _node(
        particle, "geom", name="particle_geom", type="sphere", size=0.1, rgba="0.0 0.0 1.0 0.0",
        contype=1,
    )  # fmt: skip
    _node(particle, "site", name="particle_site", pos=[0.0, 0.0, 0], size=0.2)
    _node(particle, "joint", name="ball_x", type="slide", pos=[0, 0, 0], axis=[1, 0, 0])
    _node(particle, "joint", name="ball_y", type="slide", pos=[0, 0, 0], axis=[0, 1, 0])
    _node(world, "site", name="target_site", pos=[0.0, 0.0, 0], size=0.2, material="target")
    for w, row in enumerate(layout.split("\\")):
        for h, tile in enumerate(row):
            if tile == "#":
                _node(
                    world, "geom", conaffinity=1, type="box", name=f"wall_{w}_{h}",
                    material="wall", pos=[w + 1.0, h + 1.0, 0], size=[0.5, 0.5, 0.2],
                )  # fmt: skip
    actuator = _node(root, "actuator")
    for joint in ("ball_x", "ball_y"):
        _node(actuator, "motor", joint=joint, ctrlrange=[-1.0, 1.0], ctrllimited=True, gear=100)
    return mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))


class Oracle:
    def __init__(self, layout: str, observation: np.ndarray) -> None:
        self.model = oracle_model(layout)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_resetData(self.model, self.data)
        self.set_state(observation[:2], observation[2:])

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: np.ndarray) -> np.ndarray:
        action = np.clip(action, -1.0, 1.0)
        self.set_state(self.data.qpos.copy(), np.clip(self.data.qvel, -5.0, 5.0))
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data)
        return np.concatenate([self.data.qpos, self.data.qvel])


def actions(count: int, seed: int) -> np.ndarray:
    """Return random actions, some beyond the limits; half are held, so that the ball hits walls."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(-1.5, 1.5, size=(count, 2)).astype(np.float32)
    for start in range(0, count, 100):
        drawn[start : start + 50] = drawn[start]
    return drawn


@pytest.mark.parametrize("name", D4RL_LAYOUTS)
def test_states_and_rewards_equal_those_of_d4rls_model(name):
    layout = D4RL_LAYOUTS[name]
    rows = layout.split("\\")
    goal = next(np.array([w, r.index("G")]) for w, r in enumerate(rows) if "G" in r)
    sparse, dense = (gymnasium.make(f"pgdiff_envs:{task}").unwrapped for task in TASKS[name])
    assert sparse.maze == tuple(rows)
    contacts, worst = 0, 0.0
    for seed in range(2 if name in ("open", "large") else 1):
        observation, _ = sparse.reset(seed=seed)
        np.testing.assert_array_equal(dense.reset(seed=seed)[0], observation)
        oracle = Oracle(layout, observation)
        for action in actions(1000, seed):
            expected = oracle.step(action)
            contacts += oracle.data.ncon > 1
            got, reward, terminated, _, _ = sparse.step(action)
            got_dense, reward_dense, *_ = dense.step(action)
            worst = max(worst, float(np.abs(got - expected).max()))
            np.testing.assert_array_equal(got, got_dense)
            distance = np.linalg.norm(expected[:2] - goal)
            assert reward == (1.0 if distance <= 0.5 else 0.0)
            assert reward_dense == pytest.approx(np.exp(-distance), rel=1e-12)
            assert not terminated
    print(f"{name}: largest difference {worst:.1e}, {contacts} steps at walls")
    assert worst <= 1e-9
    assert contacts > 50


def test_the_velocity_is_clipped_as_in_d4rl():
    rows = ["#" * 60, "#" + "O" * 58 + "#", "#" * 60]  # long enough to reach 5 m/s
    env = gymnasium.make("pgdiff_envs:maze2d-umaze-v1", layout=rows).unwrapped
    observation, _ = env.reset(seed=0, options={"location": (1.0, 1.0)})
    oracle = Oracle("\\".join(rows), observation)
    fast = 0
    for action in [(0.0, 1.0)] * 600 + [(0.0, -1.0)] * 600:
        expected = oracle.step(np.array(action))
        got, *_ = env.step(np.array(action, dtype=np.float32))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
        fast += abs(expected[3]) > 5.0
    assert fast > 100


def test_step_limits_and_reference_scores_equal_d4rls():
    from pgdiff_envs import REFERENCE_SCORES, TASKS, normalized_score

    assert set(TASKS) == set(D4RL_TASKS)
    for name, (steps, low, high) in D4RL_TASKS.items():
        env = gymnasium.make(f"pgdiff_envs:{name}")
        assert env.spec.max_episode_steps == steps
        assert REFERENCE_SCORES[name] == env.unwrapped.reference_scores == (low, high)
        np.testing.assert_allclose(normalized_score(name, [low, high]), [0.0, 100.0], atol=1e-9)
        assert env.unwrapped.normalized_score(high) == pytest.approx(100.0)


def test_truncation_falls_at_the_limit():
    env = gymnasium.make("pgdiff_envs:maze2d-open-v0")
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(150)]
    assert ends == [(False, False)] * 149 + [(False, True)]


def test_d4rls_reference_controller_earns_about_d4rls_reference_score():
    """D4RL's script made one controller for all episodes and did not pass resets to it."""
    env = gymnasium.make("pgdiff_envs:maze2d-umaze-v1")
    expert = env.unwrapped.expert(0, goal=env.unwrapped.goal)
    returns = []
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        total, truncated = 0.0, False
        while not truncated:
            observation, reward, _, truncated, _ = env.step(expert.predict(observation)[0])
            total += reward
        returns.append(total)
    error = np.std(returns) / math.sqrt(len(returns))
    assert abs(np.mean(returns) - 161.86) < 3 * error
    assert error < 20
