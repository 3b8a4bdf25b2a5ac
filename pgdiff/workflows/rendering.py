"""Rendering of recorded episodes, replayed from their seed and actions."""

import contextlib
import ctypes.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from pgdiff.core.validation import PgdiffError, require
from pgdiff.plotting.animations import evenly_spaced
from pgdiff.plotting.canvas import save_gif

_SIDE = 320  # maximum number of pixels of the longer side
_SHORTEST = 20  # milliseconds; viewers slow down shorter frames
_HOLD = 1500  # milliseconds that the last frame is shown


def can_render(env: gymnasium.Env[Any, Any]) -> bool:
    """Return True if an environment can render arrays."""
    return "rgb_array" in (env.metadata.get("render_modes") or ())


def render_options(
    env: gymnasium.Env[Any, Any], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return an environment's arguments plus the arguments for rendering arrays.

    A MuJoCo model with a camera named "track" uses that camera, because Gymnasium's default camera
    does not follow the body.
    """
    chosen = {**(options or {}), "render_mode": "rgb_array"}
    model: Any = getattr(env.unwrapped, "model", None)
    cameras = [model.camera(index).name for index in range(getattr(model, "ncam", 0))]
    free = not {"camera_id", "camera_name"} & chosen.keys()
    if free and hasattr(env.unwrapped, "mujoco_renderer") and "track" in cameras:
        chosen["camera_name"] = "track"
    return chosen


def rendered_gif(
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    path: Path,
    *,
    seed: int,
    actions: Sequence[np.ndarray],
    trajectory: Float[np.ndarray, "steps obs"],
    flat: Callable[[Any], np.ndarray],
    max_frames: int = 100,
) -> Path:
    """Write an animation of an episode rendered by its environment, at its frame rate if known.

    The episode is replayed from its seed and actions, so rendering does not slow down or change the
    evaluation. The observations are compared with the recorded observations.

    Args:
        make_env: makes the environment with `render_mode="rgb_array"`.
        path: the GIF to write.
        seed: seed of the episode's reset.
        actions: actions of every step.
        trajectory: the recorded observations, one more than the actions.
        flat: turns an observation into a row of the trajectory.
        max_frames: maximum number of frames, evenly spaced over the episode.

    Raises:
        PgdiffError: if the environment cannot render on this machine, or the replay differs from
            the recorded episode.
    """
    shown = set(evenly_spaced(len(actions), max_frames))
    frames = []
    with _render_off_screen():
        try:
            env = make_env()
            try:
                observation, _ = env.reset(seed=seed)
                for step in range(len(actions) + 1):
                    if not np.allclose(flat(observation), trajectory[step], atol=1e-6):
                        raise PgdiffError(
                            f"the environment did not reproduce the episode of seed {seed}: its "
                            f"observation of step {step} differs"
                        )
                    if step in shown:
                        frames.append(_check_frame(env.render()))
                    if step < len(actions):
                        observation = env.step(actions[step])[0]
                fps = env.metadata.get("render_fps")
            finally:
                env.close()
        except PgdiffError:
            raise
        except Exception as error:  # from a driver, a missing library or the environment
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PgdiffError(
                f"the environment cannot render here ({reason}). For MuJoCo on a machine without "
                "a display, install EGL or OSMesa and set MUJOCO_GL=egl or MUJOCO_GL=osmesa."
            ) from error
    between = len(actions) / max(len(frames) - 1, 1) * 1000 / float(fps or 12.5)
    times = [max(_SHORTEST, round(between))] * (len(frames) - 1) + [_HOLD]
    return save_gif(frames, path, milliseconds=times, drawn=False)


def _check_frame(frame: Any) -> np.ndarray:
    """Return a rendered frame, scaled down if it is large; raise unless it is an RGB array."""
    pixels = np.asarray(frame)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise PgdiffError(
            f"the environment's `render` must return uint8 [height, width, 3], got {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    longest = max(pixels.shape[:2])
    if longest <= _SIDE:
        return pixels
    height, width = (max(1, round(side * _SIDE / longest)) for side in pixels.shape[:2])
    image = require("PIL.Image", extra="viz").fromarray(pixels)
    return np.asarray(image.resize((width, height)))


@contextlib.contextmanager
def _render_off_screen() -> Iterator[None]:
    """Select an off-screen renderer for MuJoCo, unless the user has selected a display.

    Gymnasium tries a window first, and MuJoCo fails permanently if no window can be opened.
    """
    selected = any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"))
    libraries = (("egl", "EGL"), ("osmesa", "OSMesa"))
    name = next((name for name, library in libraries if ctypes.util.find_library(library)), None)
    if selected or name is None or sys.platform != "linux":
        yield
        return
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before
