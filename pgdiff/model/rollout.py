"""Roll-outs longer than a model's horizon, window by window."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_part, check_positive_int, check_seed
from pgdiff.diffusion import Guidance, Sampling
from pgdiff.model.guidance import Guide
from pgdiff.model.trajectory_diffusion import TrajectoryDiffusion, as_float32
from pgdiff.trajectory import Condition, Segment


def rollout(
    model: TrajectoryDiffusion,
    observations: Float[Tensor, "batch observation"] | Float[np.ndarray, "batch observation"],
    *,
    tokens: int,
    history_tokens: int | None = None,
    sampling: Sampling | None = None,
    guides: Sequence[Guide | Guidance] = (),
    condition: Condition | None = None,
    until: Callable[[Segment], Bool[Tensor, "batch tokens"]] | None = None,
    seed: int = 0,
) -> Segment:
    """Generate trajectories of any length from first observations.

    The first window starts with an observation. Each later window continues from the last
    `history_tokens` tokens, given as clean tokens (Chen et al. 2024, "Diffusion Forcing", section
    4.1). The model should be trained with a noise level for each token; other models were not
    trained with histories, and a warning is given.

    Args:
        model: model whose tokens hold observations.
        observations: `[batch, observation]`, first observations, in raw units.
        tokens: number of tokens of each trajectory, also more than the horizon.
        history_tokens: number of given tokens of a window, from 1 to the horizon minus 1; half the
            horizon if None. More tokens make windows more consistent but shorter.
        sampling: settings of the sampling of each window. Its `horizon` is the number of tokens of
            a window; its `history` is ignored in the first window.
        guides: objectives whose gradients move the samples of each window separately.
        condition: raw values of the conditions; None for none.
        until: function that returns True at tokens that have arrived. Windows are added until every
            trajectory has a token that arrived, or `tokens` tokens; tokens after the last first
            arrival are removed. None for all `tokens`.
        seed: seed of all noise.

    Returns:
        `[batch, tokens, ...]` in raw units, possibly with fewer tokens if `until` is given.

    Raises:
        PgdiffError: a setting is out of range, or samples are not finite.

    Example:
        >>> import pgdiff
        >>> from pgdiff import DiffusionProcess, Sampling, Tokens, TrajectoryDiffusion
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> model = TrajectoryDiffusion.from_episodes(
        ...     episodes, Tokens(horizon=4), process=DiffusionProcess.forcing()
        ... )
        >>> segment = pgdiff.rollout(
        ...     model, episodes.observations[:2], tokens=7, sampling=Sampling(steps=2)
        ... )
        >>> segment.observations.shape
        torch.Size([2, 7, 4])
    """
    sampling = Sampling() if sampling is None else check_part("sampling", sampling, Sampling)
    horizon = model.checked_horizon(sampling.horizon)
    tokens = check_positive_int("tokens", tokens)
    past = history_tokens
    past = max(1, horizon // 2) if past is None else check_positive_int("history_tokens", past)
    if past >= horizon:
        raise PgdiffError(
            f"`history_tokens` must be less than the {horizon} tokens of a window. Got {past}."
        )
    if tokens > horizon and not model.process.level_distribution.per_token:
        warnings.warn(
            f"This model was trained with {model.process.level_distribution!r}, one level for the "
            "whole sequence; it was not trained with histories and may not continue from them.",
            stacklevel=2,
        )
    begin = as_float32(observations, device=model.device)
    size = model.codec.spec.observation_size
    if begin.ndim != 2 or begin.shape[1] != size:
        raise PgdiffError(
            f"`observations` must have shape [batch, {size}]. Got {list(begin.shape)}."
        )
    batch, first = len(begin), sampling.replace(history=None)
    generator = torch.Generator(model.device).manual_seed(check_seed("seed", seed))
    draw = partial(model.sample, batch, guides=guides, condition=condition, seed=[generator])
    x = draw(first, inpainting=model.inpaint(begin)).x
    while x.shape[1] < tokens and (until is None or _arrival(until, model.codec.decode(x)) is None):
        window = draw(sampling, inpainting=model.codec.continue_from(x[:, -past:], horizon)).x
        x = torch.cat([x, window[:, past:]], dim=1)
    last = None if until is None else _arrival(until, model.codec.decode(x[:, :tokens]))
    kept = x[:, : tokens if last is None else last + 1]
    return model.codec.decode_plan(kept)


def _arrival(until: Callable[[Segment], Tensor], segment: Segment) -> int | None:
    """Return the token by which every trajectory has arrived; None if one has not."""
    arrived, shape = until(segment), segment.observations.shape[:2]
    if not isinstance(arrived, Tensor) or arrived.dtype != torch.bool or arrived.shape != shape:
        raise PgdiffError(
            f"`until` must return a tensor of bool of the shape {list(shape)}. Got "
            + (
                f"{arrived.dtype} of {list(arrived.shape)}."
                if isinstance(arrived, Tensor)
                else f"{arrived!r}."
            )
        )
    if not arrived.any(dim=1).all():
        return None
    return int(arrived.int().argmax(dim=1).max())
