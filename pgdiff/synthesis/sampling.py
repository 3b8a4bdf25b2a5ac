"""How one shard of a synthetic data set is sampled: a function of the seed and its number alone."""

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

from pgdiff.diffusion import Churn, Solver, TrustRegion
from pgdiff.diffusion.spacing import Spacing
from pgdiff.guides import Guide, bind
from pgdiff.model import TrajectoryDiffusion
from pgdiff.registry import to_config
from pgdiff.synthesis.decode import Bounds, Counts, Ends, check_layout, decode
from pgdiff.torch_threads import torch_threads
from pgdiff.training.compiling import compiled
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError, check_positive_int, check_seed


@dataclass(kw_only=True)
class ShardSampler:
    """Samples a shard: `batch` trajectories whose noise is of (seed, number) alone.

    Attributes:
        model: generates observations, actions, rewards and terminals, one token a step.
        guides: what steers it.
        seed: of all shards.
        batch: trajectories of a shard.
        steps: of the sampler.
        solver: the churned Heun's method of Karras et al. (2022) if None.
        spacing: which levels a token visits; equal steps of the level if None.
        trust_region: limits how far guides move a sample.
        condition: what the trajectories are to be like; None for any.
        ends: which observations end an episode, such as `TaskEnds("pgdiff_envs:walker2d-v5")`; None
            for what the model draws alone. See `decode`.
        threads: of torch while a shard is sampled, which the result depends on.
        compile: whether the model's networks are compiled, in place, for the first shard; the
            last bits of the result depend on that too.

    Raises:
        PgdiffError: a model that generates no transitions, a guide that does not fit it, or a
            setting out of its range.
    """

    model: TrajectoryDiffusion
    guides: Sequence[Guide] = ()
    seed: int = 0
    batch: int = 256
    steps: int = 32
    solver: Solver | None = None
    spacing: Spacing | None = None
    trust_region: TrustRegion | None = None
    condition: Condition | None = None
    ends: Ends | None = None
    threads: int = 1
    compile: bool = False
    _bounds: Bounds | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        check_layout(self.model.layout)
        self.seed = check_seed("seed", self.seed)
        for name in ("batch", "steps", "threads"):
            setattr(self, name, check_positive_int(name, getattr(self, name)))
        self.solver = Churn() if self.solver is None else self.solver
        for guide in self.guides:
            bind(guide, self.model)  # the clearest error, before anything is written
        if self.ends is not None:
            self.ends(np.zeros((1, _size(self.model)), np.float32))  # likewise
        if self.model.action_range is not None:
            low, high = (np.asarray(end, np.float32) for end in self.model.action_range)
            self._bounds = low, high

    @property
    def most(self) -> int:
        """Transitions of a shard at most."""
        return self.batch * self.model.layout.horizon

    def shard(self, number: int) -> tuple[dict[str, np.ndarray], Counts]:
        """Sample the trajectories of shard `number`, as rows.

        Raises:
            PgdiffError: guidance or the network gives NaN or infinite samples, the shard and the
                guides are named; or `ends` leaves nothing.
        """
        source = np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator(self.model.device).manual_seed(int(source >> 1))
        try:
            with torch_threads(self.threads), compiled(self.model, self.compile):
                x = self.model.sample(
                    batch=self.batch,
                    generators=[generator],
                    steps=self.steps,
                    solver=self.solver,
                    spacing=self.spacing,
                    guidance=[bind(guide, self.model) for guide in self.guides],
                    trust_region=self.trust_region,
                    condition=self.condition,
                )
                segment = self.model.segment(x)
            if not all(torch.isfinite(part).all() for part in _tensors(segment)):
                raise PgdiffError("Samples are NaN or Inf in raw units.")
        except PgdiffError as error:
            scales = ", ".join(f"'{g.name}' of scale {g.scale:g}" for g in self.guides)
            raise PgdiffError(
                f"Shard {number} cannot be sampled: {error} Guides: {scales or 'none'}."
            ) from error
        rows, counts = decode(segment, bounds=self._bounds, ends=self.ends)
        if not counts.transitions:
            raise PgdiffError(
                f"Shard {number} keeps no transition: by `ends` all its trajectories are over "
                "where they begin. Give the task that the model was trained on, or None."
            )
        return rows, counts

    def settings(self) -> dict[str, Any]:
        """All that a shard depends on beside its number, as plain JSON values."""
        return {
            "model": described(self.model)
            | {"settings": described(json.dumps(to_config(self.model), sort_keys=True))},
            "guides": [described(guide) for guide in self.guides],
            "seed": self.seed,
            "batch": self.batch,
            "steps": self.steps,
            "threads": self.threads,
            "compile": self.compile,
            "device": self.model.device.type,
            "solver": to_config(self.solver),
            "spacing": described(self.spacing),
            "trust_region": described(self.trust_region),
            "condition": described(self.condition),
            "ends": described(self.ends),
        }


def described(value: Any) -> Any:
    """What a part is made of, as JSON: settings in words, networks and arrays by their SHA-256."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return described(value.item())
    if isinstance(value, nn.Module):
        plain = {
            f"{path}.{key}": own
            for path, part in value.named_modules()
            for key, own in sorted(vars(part).items())
            if not key.startswith("_") and key != "training" and _is_plain(own)
        }
        return {
            "network": type(value).__name__,
            "sha256": _digest(value),
            "plain": plain,
        }
    if isinstance(value, partial):
        return {"partial": [described(p) for p in (value.func, value.args, value.keywords)]}
    if isinstance(value, torch.Tensor | np.ndarray):
        return {"sha256": hashlib.sha256(_bytes(value)).hexdigest()}
    if isinstance(value, dict):
        return {str(key): described(part) for key, part in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [described(part) for part in value]
    if inspect.isroutine(value):
        return {"function": f"{value.__module__}.{value.__qualname__}"}
    name = {"kind": type(value).__qualname__}
    if hasattr(value, "__dict__"):
        return name | {key: described(part) for key, part in sorted(vars(value).items())}
    return name


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def _size(model: TrajectoryDiffusion) -> int:
    part = model.layout.slices["observations"]
    return int(part.stop - part.start)


def _digest(module: nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(value: torch.Tensor | np.ndarray) -> bytes:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
    return array.tobytes()


def _tensors(segment: Any) -> list[torch.Tensor]:
    return [part for part in vars(segment).values() if isinstance(part, torch.Tensor)]
