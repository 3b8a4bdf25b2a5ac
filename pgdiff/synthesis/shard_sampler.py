"""Sampler of the shards of a synthetic data set."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pgdiff.core.registry import to_config
from pgdiff.core.threads import torch_threads
from pgdiff.core.validation import PgdiffError, check_part, check_positive_int, check_seed
from pgdiff.diffusion import Churn, Sampling
from pgdiff.guides import Guide, bind
from pgdiff.model import TrajectoryDiffusion
from pgdiff.synthesis.decode import Bounds, Counts, Ends, check_segments, decode
from pgdiff.training.compilation import compiled
from pgdiff.trajectory import Condition

SAMPLING = Sampling(steps=32, solver=Churn())
"""Default settings of the sampling of synthetic data."""


@dataclass(kw_only=True)
class ShardSampler:
    """Sampler of shards of `batch` trajectories, whose noise depends only on (seed, number).

    Attributes:
        model: model that generates observations, actions, rewards and terminals, with stride 1.
        guides: guides of the sampling.
        seed: seed of all shards.
        batch: trajectories per shard.
        sampling: settings of the sampling; by default 32 steps of the churned Heun method of Karras
            et al. (2022).
        condition: raw values that the trajectories are conditioned on.
        termination: rule that marks the observations that end an episode, such as
            `TaskEnds("pgdiff_envs:walker2d-v5")`; None uses only the sampled terminals. See
            `decode`.
        threads: PyTorch threads during the sampling. The result depends on it by rounding.
        compile: True to compile the model's networks in place for the first shard. The result
            depends on it by rounding.

    Raises:
        PgdiffError: the model does not generate transitions, a guide does not fit it, or a setting
            is out of range.

    Example:
        >>> from pgdiff import InpaintingPatterns, Sampling, Tokens, TrajectoryDiffusion
        >>> from pgdiff.synthesis import ShardSampler
        >>> from pgdiff.testing import example_episodes
        >>> model = TrajectoryDiffusion.from_episodes(
        ...     example_episodes(), Tokens.transitions(horizon=8),
        ...     inpainting=InpaintingPatterns(patterns=("none",)),
        ... )
        >>> sampler = ShardSampler(model=model, batch=8, sampling=Sampling(steps=2))
        >>> rows, counts = sampler.shard(0)
        >>> counts.trajectories, len(rows["rewards"]) == counts.transitions
        (8, True)
    """

    model: TrajectoryDiffusion
    guides: Sequence[Guide] = ()
    seed: int = 0
    batch: int = 256
    sampling: Sampling | None = None
    condition: Condition | None = None
    termination: Ends | None = None
    threads: int = 1
    compile: bool = False
    _bounds: Bounds | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        check_segments(self.model.codec.spec)
        self.seed = check_seed("seed", self.seed)
        for name in ("batch", "threads"):
            setattr(self, name, check_positive_int(name, getattr(self, name)))
        self.sampling = SAMPLING if self.sampling is None else self.sampling
        check_part("sampling", self.sampling, Sampling)
        for guide in self.guides:
            bind(guide, self.model)  # raises early and clearly
        if self.termination is not None:
            # Raises early if the rule does not fit the observations.
            self.termination(np.zeros((1, self.model.codec.spec.observation_size), np.float32))
        if self.model.codec.action_range is not None:
            low, high = (np.asarray(end, np.float32) for end in self.model.codec.action_range)
            self._bounds = low, high

    @property
    def max_transitions(self) -> int:
        """Maximum number of transitions of a shard."""
        return self.batch * self.model.codec.tokens

    def shard(self, number: int) -> tuple[dict[str, np.ndarray], Counts]:
        """Sample the trajectories of shard `number` and return its rows and counts.

        Raises:
            PgdiffError: samples are NaN or infinite because guidance or the network diverges, or
                `termination` discards all trajectories.
        """
        source = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator(self.model.device).manual_seed(int(source >> 1))
        try:
            with torch_threads(self.threads), compiled(self.model, self.compile):
                segment = self.model.sample(
                    self.batch,
                    self.sampling,
                    guides=self.guides,
                    condition=self.condition,
                    seed=[generator],
                ).segment
            if not all(torch.isfinite(part).all() for part in segment.fields.values()):
                raise PgdiffError("Samples are NaN or Inf in raw units.")
        except PgdiffError as error:
            scales = ", ".join(f"'{g.name}' of scale {g.scale:g}" for g in self.guides)
            raise PgdiffError(
                f"Shard {number} cannot be sampled: {error} Guides: {scales or 'none'}."
            ) from error
        rows, counts = decode(segment, bounds=self._bounds, ends=self.termination)
        if not counts.transitions:
            raise PgdiffError(
                f"Shard {number} has no transitions: `termination` ends all trajectories at their "
                "first observation. Pass the rule of the model's task, or None."
            )
        return rows, counts

    def settings(self) -> dict[str, Any]:
        """Return all settings that shards depend on, as JSON values."""
        return {
            "model": describe(self.model)
            | {"settings": describe(json.dumps(to_config(self.model), sort_keys=True))},
            "guides": [describe(guide) for guide in self.guides],
            "seed": self.seed,
            "batch": self.batch,
            "threads": self.threads,
            "compile": self.compile,
            "device": self.model.device.type,
            "sampling": describe(self.sampling),
            "condition": describe(self.condition),
            "termination": describe(self.termination),
        }


def describe(value: Any) -> Any:
    """Return a part as JSON: plain settings by value, networks and arrays by their SHA-256."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return describe(value.item())
    if isinstance(value, nn.Module):
        plain = {
            f"{path}.{key}": attribute
            for path, part in value.named_modules()
            for key, attribute in sorted(vars(part).items())
            if not key.startswith("_") and key != "training" and _is_plain(attribute)
        }
        return {
            "network": type(value).__name__,
            "sha256": _digest(value),
            "plain": plain,
        }
    if isinstance(value, partial):
        return {"partial": [describe(p) for p in (value.func, value.args, value.keywords)]}
    if isinstance(value, torch.Tensor | np.ndarray):
        return {"sha256": hashlib.sha256(_bytes(value)).hexdigest()}
    if isinstance(value, dict):
        return {str(key): describe(part) for key, part in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if inspect.isroutine(value):
        return {"function": f"{value.__module__}.{value.__qualname__}"}
    name = {"kind": type(value).__qualname__}
    if hasattr(value, "__dict__"):
        return name | {key: describe(part) for key, part in sorted(vars(value).items())}
    return name


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def _digest(module: nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(value: torch.Tensor | np.ndarray) -> bytes:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    return array.tobytes()
