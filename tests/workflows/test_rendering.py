"""Rendering of recorded episodes, or one reason why it fails."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from pgdiff.workflows.evaluation_report import rendered_gifs
from pgdiff.workflows.rendering import render_options


class Light(gym.Env[np.ndarray, np.ndarray]):
    """An environment that renders the sum of its actions as brightness."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = gym.spaces.Box(-9, 99, (1,))
    action_space = gym.spaces.Box(-9, 9, (1,))

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.sum = np.zeros(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, Any]:
        super().reset(seed=seed)
        self.sum = self.np_random.uniform(0, 1, 1)
        return self.sum.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Any]:
        self.sum += action + (0.1 if self.fault == "noise" else 0.0)
        return self.sum.copy(), 0.0, False, False, {}

    def render(self) -> Any:
        if self.fault == "driver":
            raise AttributeError("'NoneType' object has no attribute 'glGetError'")
        side = 400 if self.fault == "large" else 32
        return np.full((side, side // 2, 3), int(self.sum[0]) * 20, np.uint8)


def drawn(out: Path, make_env: Callable[[], Any], env: Any = None) -> str | None:
    """Render two episodes of 4 steps."""
    actions = [[np.ones(1)] * 4, [np.full(1, 2.0)] * 4]
    trajectories = []
    for seed, taken in enumerate(actions):
        inner = Light()
        rows = [inner.reset(seed=seed)[0]]
        trajectories.append(np.stack(rows + [inner.step(action)[0] for action in taken]))
    result: Any = SimpleNamespace(trajectories=trajectories, environment_seeds=np.arange(2))
    recorder: Any = SimpleNamespace(actions=lambda number, steps: actions[number][:steps])
    return rendered_gifs(result, recorder, env or Light(), make_env, out, count=2)


def brightness(file: Path) -> list[int]:
    with Image.open(file) as image:
        found = []
        for frame in range(image.n_frames):
            image.seek(frame)
            assert image.info["duration"] == (1500 if frame == image.n_frames - 1 else 50)
            found.append(int(np.asarray(image.convert("RGB"))[5, 5, 0]))
    return found


def test_frames_are_those_of_the_episode_at_the_speed_of_its_clock(tmp_path: Path) -> None:
    assert drawn(tmp_path, Light) is None
    assert brightness(tmp_path / "rendered.gif") == [0, 20, 40, 60, 80]
    assert brightness(tmp_path / "rendered_1.gif") == [0, 40, 80, 120, 160]
    assert drawn(tmp_path, lambda: Light("large")) is None
    with Image.open(tmp_path / "rendered.gif") as image:
        assert image.size == (160, 320)


def test_one_reason_where_it_cannot_be_rendered(tmp_path: Path) -> None:
    for fault, reason in (("driver", "MUJOCO_GL=egl"), ("noise", "did not reproduce the episode")):
        made: list[Light] = []

        def make_env(fault: str = fault, made: list[Light] = made) -> Light:
            made.append(Light(fault))
            return made[-1]

        found = drawn(tmp_path, make_env)
        assert found is not None and reason in found and "\n" not in found
        assert len(made) == 1 and list(tmp_path.iterdir()) == []


def test_an_environment_that_draws_itself_or_renders_nothing_is_left_out(tmp_path: Path) -> None:
    silent, drawing = Light(), Light()
    silent.metadata = {"render_modes": ["human"]}
    drawing.draw = None  # type: ignore[attr-defined]
    for env in (silent, drawing):
        assert drawn(tmp_path, Light, env=env) is None
    assert list(tmp_path.iterdir()) == []


def test_a_camera_follows_the_body_where_the_model_has_one() -> None:
    hopper = gym.make("Hopper-v5")
    assert render_options(hopper) == {"render_mode": "rgb_array", "camera_name": "track"}
    chosen = {"camera_id": 0, "frame_skip": 2}
    assert render_options(hopper, chosen) == {**chosen, "render_mode": "rgb_array"}
    assert render_options(Light()) == {"render_mode": "rgb_array"}
