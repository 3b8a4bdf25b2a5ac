"""What a planner has seen and done before now, and what it takes a bad observation for.

A model with a noise level for each token takes a history of any quality: what was seen badly is a
noisy token. Its clean estimate of the last one, given those before it and what was done since, is
that of a Bayes filter, which is how Chen et al. (2024, "Diffusion Forcing") read their own model.

A model is sure of what it has learned from, and takes a place where nobody was recorded, such as a
goal to rest at, for one nearby. What estimates are off from what was seen is at most the noise, on
average, where the model is right: one that is off by more is trusted so much less.

Plans are made from the estimate alone: where they began with the past itself they were worse.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from pgdiff.model import TrajectoryDiffusion
from pgdiff.validation import PgdiffError, check_positive_int

FIELDS = ("observations", "previous_actions")
"""Of a token, what an acting planner knows as soon as it sees the token's observation."""


class Past(NamedTuple):
    """The last steps of each environment before now, the latest at the end.

    Attributes:
        observations: `[environments, steps, observation]`, raw units, as they were seen.
        actions: `[environments, steps, action]`, what was done at each; of size 0 for a model that
            generates none.
        levels: `[environments, steps]`, noise level of each observation.
        moved: `[environments, steps, observation]`, what the model's estimate was off from each;
            NaN where nothing was seen.
        recorded: `[environments]`, how many of the last of these steps belong to the episode.
    """

    observations: Float[np.ndarray, "environments steps observation"]
    actions: Float[np.ndarray, "environments steps action"]
    levels: Float[np.ndarray, "environments steps"]
    moved: Float[np.ndarray, "environments steps observation"]
    recorded: Int[np.ndarray, " environments"]

    @classmethod
    def empty(cls, environments: int, steps: int, *, observation: int, action: int) -> "Past":
        """Room for so many steps, none of which has been."""
        return cls(
            observations=np.zeros((environments, steps, observation), np.float32),
            actions=np.zeros((environments, steps, action), np.float32),
            levels=np.zeros((environments, steps), np.float32),
            moved=np.zeros((environments, steps, observation), np.float32),
            recorded=np.zeros(environments, np.int64),
        )

    def begun(self, started: Bool[np.ndarray, "*environments"]) -> "Past":
        """Without the steps of episodes that are over."""
        fresh = np.broadcast_to(started, self.recorded.shape)
        return self._replace(
            moved=np.where(fresh[:, None, None], np.float32(0.0), self.moved),
            recorded=np.where(fresh, 0, self.recorded),
        )

    def then(
        self,
        observations: Float[np.ndarray, "environments observation"],
        actions: Float[np.ndarray, "environments action"],
        levels: Float[np.ndarray, " environments"],
        moved: Float[np.ndarray, "environments observation"],
    ) -> "Past":
        """A step later; the earliest is forgotten."""

        def pushed(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.concatenate([old[:, 1:], new[:, None].astype(old.dtype)], axis=1)

        return Past(
            observations=pushed(self.observations, observations),
            actions=pushed(self.actions, actions[:, : self.actions.shape[-1]]),
            levels=pushed(self.levels, levels),
            moved=pushed(self.moved, moved),
            recorded=np.minimum(self.recorded + 1, self.levels.shape[1]),
        )

    def last(self, environments: Int[np.ndarray, " some"], steps: int) -> "Past":
        """So many last steps of some environments."""
        first = self.levels.shape[1] - steps
        return Past(
            observations=self.observations[environments, first:],
            actions=self.actions[environments, first:],
            levels=self.levels[environments, first:],
            moved=self.moved[environments, first:],
            recorded=np.full(len(environments), steps, np.int64),
        )


def check_context(context: int, model: TrajectoryDiffusion) -> int:
    """Return the number of past tokens, if the model can see observations with them."""
    context = check_positive_int("context", context, minimum=0)
    if not context:
        return 0
    if not model.levels.per_token:
        raise PgdiffError(
            "`context` must be 0 for a model of one noise level for all tokens, which knows no "
            f"past. Train one with levels of their own, such as `recipe=forcing`. Got {context}."
        )
    unknown = sorted(set(model.layout.slices) - set(FIELDS))
    if unknown:
        raise PgdiffError(
            f"`context` must be 0 for a model whose tokens hold '{unknown[0]}', which an acting "
            f"planner does not know yet of the present one. Got {context}."
        )
    if context >= model.layout.horizon:
        raise PgdiffError(
            f"`context` must be less than the {model.layout.horizon} tokens that the model takes, "
            f"of which one is for the present. Got {context}."
        )
    if not model.causal:
        raise PgdiffError(f"`context` must be 0 for a model that is not causal. Got {context}.")
    if model.conditioning.names and model.condition_dropout == 0:
        raise PgdiffError(
            "`context` must be 0 for a model that was trained with condition_dropout=0, whose "
            f"estimates of the past need one without a condition. Got {context}."
        )
    return context


def estimated(
    model: TrajectoryDiffusion,
    observations: Float[np.ndarray, "environments observation"],
    levels: Float[np.ndarray, " environments"],
    past: Past,
) -> Float[np.ndarray, "environments observation"]:
    """What noisy observations are taken for, given as much of the past as there is.

    What plans are asked to be like says nothing of where one is: a model of conditions hears none.

    Args:
        model: a causal one, with a noise level for each token.
        observations: of now, raw units.
        levels: of their noise; those at 0 stay as they are.
        past: the steps before now.

    Raises:
        PgdiffError: estimates that are not finite.
    """
    stride, found = model.layout.stride, observations.copy()
    tokens = past.recorded // stride
    for count in np.unique(tokens[levels > 0]).tolist():
        here = np.flatnonzero((tokens == count) & (levels > 0))
        found[here] = _now(model, observations[here], levels[here], past.last(here, count * stride))
    if not np.isfinite(found).all():
        raise PgdiffError(
            "`model` gave NaN or Inf for what a noisy observation is taken for. Check its weights."
        )
    return found


def trust(
    model: TrajectoryDiffusion, levels: Float[np.ndarray, " environments"], past: Past
) -> Float[np.ndarray, "environments observation"]:
    """How far to go along with estimates: 1 where they were off by no more than noise explains.

    The variance of the noise, each step's by its own level, over the square of `past.moved`, which
    the estimates of a model that is right do not exceed: they are the measurements less a part of
    the noise. Steps that saw nothing do not count, and those that there has been no time for count
    as right; where only such are, estimates are followed in full.

    Args:
        model: whose estimates they are.
        levels: noise of the present observations, and of the steps that there has been no time for.
        past: the steps before now.
    """
    where, steps = model.layout.slices["observations"], past.levels.shape[1]
    scale = (model.normalizer.scale / model.normalizer.factor)[where].cpu().numpy()
    early = np.arange(steps) < steps - past.recorded[:, None]
    level = torch.from_numpy(np.where(early, levels[:, None], past.levels))
    ratio = (model.schedule.sigma(level) / model.schedule.alpha(level)).numpy()
    seen = ~np.isnan(past.moved)
    off = np.square(np.where(seen, past.moved, 0.0)).sum(axis=1)
    noise = (seen * np.square(ratio[..., None] * scale)).sum(axis=1)
    return np.asarray(np.where(off > noise, noise / np.where(off > 0, off, 1.0), 1.0))


@torch.no_grad()
def _now(
    model: TrajectoryDiffusion, observations: np.ndarray, levels: np.ndarray, past: Past
) -> np.ndarray:
    """Clean estimates of the last of whole tokens; what was done is known, and has no noise."""
    layout, count = model.layout, len(observations)
    now, tokens = layout.slices["observations"], past.levels.shape[1] // layout.stride
    raw = np.zeros((count, tokens + 1, layout.features), np.float32)
    raw[:, :-1, now] = past.observations[:, :: layout.stride]
    raw[:, -1, now] = observations
    if "previous_actions" in layout.slices:
        chunk = layout.stride * past.actions.shape[-1]
        where = layout.slices["previous_actions"]
        raw[:, 1:, where] = past.actions.reshape(count, tokens, chunk)
    seen = np.concatenate([past.levels[:, :: layout.stride], levels[:, None]], axis=1)
    level = torch.from_numpy(seen.astype(np.float32)).to(model.device)
    x = model.normalizer.normalize(torch.from_numpy(raw).to(model.device))
    x0_hat = model.denoise(model.schedule.alpha(level)[..., None] * x, level)
    return np.asarray(model.segment(x0_hat).observations[:, -1].cpu().numpy())
