"""Learning rate and random generators of a step, as pure functions of the seed and the step.

They have no state, so a resumed run is exact without restoring any.
"""

import math

import numpy as np
import torch

TRAIN, VALIDATION = 0, 1
"""Identifiers of independent streams of random numbers."""


def learning_rate_at(step: int, *, steps: int, peak: float, warmup: int) -> float:
    """Return the learning rate of update `step` (from 0): linear warm-up, then cosine to 0.

    Warm-up reaches `peak` at its last update. The cosine reaches 0 at `steps`, one update after the
    last. Source: Loshchilov and Hutter, "SGDR", 2017, equation 5, with one period.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def numpy_generator(seed: int, step: int, stream: int) -> np.random.Generator:
    """Return the NumPy generator of a step."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, step)))


def torch_seed(seed: int, step: int, stream: int) -> int:
    """Return the PyTorch seed of a step."""
    sequence = np.random.SeedSequence(seed, spawn_key=(stream, step, 1))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(seed: int, step: int, stream: int, device: torch.device) -> torch.Generator:
    """Return the PyTorch generator of a step."""
    return torch.Generator(device).manual_seed(torch_seed(seed, step, stream))


def seed_global(seed: int, device: torch.device) -> None:
    """Seed the global generators of the CPU and of `device` (`torch.manual_seed` takes 1 ms)."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
