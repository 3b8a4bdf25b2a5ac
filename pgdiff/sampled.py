"""How a trajectory diffusion model is sampled, and how likely it takes a segment to be."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pgdiff.clipping import Limits, limits_of
from pgdiff.conditioning import Conditioning
from pgdiff.data import Normalizer
from pgdiff.denoisers import CachedCalls, Transformer
from pgdiff.diffusion import (
    DDIM,
    Guidance,
    Known,
    LogLikelihood,
    NoiseSchedule,
    Observed,
    Resample,
    SamplerStep,
    Solver,
    TrustRegion,
    log_likelihood,
    sample,
)
from pgdiff.diffusion.classifier_free import ClassifierFree, ConditionVector
from pgdiff.diffusion.differentiation import recordable
from pgdiff.diffusion.history_guidance import HistoryGuidance
from pgdiff.diffusion.level_schedules import FullSequence, LevelMatrix, LevelSchedule
from pgdiff.diffusion.monte_carlo import MonteCarlo
from pgdiff.diffusion.parts import check_kinds
from pgdiff.diffusion.predictions import Prediction, clean_estimate
from pgdiff.diffusion.spacing import Spacing, UniformSpacing
from pgdiff.diffusion.training_levels import TrainingLevels
from pgdiff.given import KnownPatterns, cut
from pgdiff.pretrained import Pretrained
from pgdiff.trajectory import Condition, Layout, Segment
from pgdiff.validation import (
    PgdiffError,
    check_each,
    check_level,
    check_part,
    check_positive_int,
    check_seed,
)

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]

_MODES = 2
"""Frames of the two decorators that leave inference mode and switch gradients off."""


class Sampled(Pretrained):
    """What `TrajectoryDiffusion` can do once it is trained; its attributes are described there."""

    layout: Layout
    normalizer: Normalizer
    network: nn.Module
    schedule: NoiseSchedule
    prediction: Prediction
    _prediction: Prediction
    known: tuple[str, ...]
    levels: TrainingLevels
    distilled: bool
    conditioning: Conditioning
    condition_dropout: float
    action_range: Any
    _patterns: KnownPatterns

    def tokens_of(
        self,
        observations: Float[np.ndarray, "batch tokens observation"],
        actions: Float[np.ndarray, "batch steps action"] | None = None,
    ) -> Signal:
        """Put observations, and the actions of every step, into tokens, in raw units.

        Args:
            observations: of the tokens.
            actions: of every environment step, for a model that generates actions.

        Raises:
            PgdiffError: a model that generates what plans do not keep, such as rewards.
        """
        kept = {"observations", "actions", "action_chunks", "previous_actions"}
        for name in set(self.layout.slices) - kept:
            raise PgdiffError(
                f"`fields` must not hold '{name}' where a plan is put back into tokens, which does "
                "not keep them: plan with keep_plan=False and without `warm_start`."
            )
        parts = {"observations": torch.as_tensor(observations)}
        if actions is not None:
            count, tokens = observations.shape[:2]
            if "previous_actions" in self.layout.slices:
                flat = torch.as_tensor(actions).reshape(count, tokens - 1, -1)
                parts["previous_actions"] = torch.cat([flat.new_zeros(flat[:, :1].shape), flat], 1)
            else:
                flat = torch.as_tensor(actions).reshape(count, tokens, -1)
                parts |= {"actions": flat, "action_chunks": flat}
        return torch.cat([parts[name] for name, _ in self.layout.fields], dim=-1).to(self.device)

    def tokens(self, batch: Any) -> Signal:
        """Put the layout's fields of a batch into tokens, in raw units."""
        fields = [getattr(batch, name) for name, _ in self.layout.fields]
        return torch.cat([f[..., None] if f.ndim == 2 else f for f in fields], dim=-1)

    def denoise(self, x: Signal, level: Level, condition: Condition | None = None) -> Signal:
        """Clean estimate x0_hat of noisy tokens, both normalised.

        Args:
            x: noisy tokens.
            level: their levels; a batch of 1 stands for all rows alike.
            condition: what the trajectories are like, in raw units; None for any.

        Raises:
            PgdiffError: a condition that does not fit the model's.
        """
        self.check_trained_condition(given=condition is not None)
        told = self.conditioning.vector(condition, batch=len(x), like=x)
        return self._estimate(x, level, told)

    def check_trained_condition(self, *, given: bool, weight: float = 1.0) -> None:
        """Refuse estimates that the network has never been trained to give.

        Args:
            given: whether there is a condition.
            weight: of the estimate with the condition against the one without it.

        Raises:
            PgdiffError: training never hid the condition, or always did (`condition_dropout`), and
                the estimate needs the other.
        """
        if not self.conditioning.names:
            return
        if self.condition_dropout == 0 and not given:
            raise PgdiffError(
                f"`condition` must give {list(self.conditioning.names)} to a model that was "
                "trained with condition_dropout=0, never without its condition. Got None. Train "
                "it with condition_dropout=0.1 to sample without one."
            )
        if self.condition_dropout == 0 and weight != 1:
            raise PgdiffError(
                "`classifier_free` must have weight 1 for a model that was trained with "
                f"condition_dropout=0, never without its condition. Got weight {weight:g}. Train "
                "it with condition_dropout=0.1 for other weights."
            )
        if self.condition_dropout == 1 and given and weight != 0:
            raise PgdiffError(
                "`condition` must be None for a model that was trained with condition_dropout=1, "
                "which has never seen a condition. Train it with condition_dropout=0.1."
            )

    def _estimate(
        self,
        x: Signal,
        level: Level,
        condition: ConditionVector | None,
        *,
        network: CachedCalls | None = None,
    ) -> Signal:
        told = self._network(condition, network)
        return clean_estimate(told, x, level, schedule=self.schedule, prediction=self._prediction)

    def _network(
        self, condition: ConditionVector | None, network: CachedCalls | None = None
    ) -> Callable[[Signal, Level], Signal]:
        """The network, or the one given, as a function of noisy tokens and levels alone.

        It takes and gives tokens of any type. A network in half precision, or under autocast,
        computes in that; levels are not rounded.
        """
        called = self.network if network is None else network
        weight = next(self.network.parameters(), None)

        def call(x: Signal, level: Level) -> Signal:
            kind = x.dtype if weight is None else weight.dtype
            given = () if condition is None else (condition.to(kind),)
            output: Signal = called(x.to(kind), level, *given)
            return output.to(x.dtype)

        return call

    @property
    def causal(self) -> bool:
        """Whether no token hears of later ones, so that fewer may be asked for."""
        config = getattr(self.network, "config", None)
        return bool(getattr(config, "attention", "full") != "full")

    def pattern(self, name: str) -> Bool[Tensor, "tokens features"]:
        """Mask of what the pattern of that name gives, at its latest arrival."""
        return self._patterns.masks(name)[-1]

    def given(
        self,
        observation: Float[Tensor, "batch observation"],
        goal: Float[Tensor, "batch goal"] | None = None,
        arrival: Int[Tensor, " batch"] | None = None,
    ) -> Known:
        """What is known when planning from an observation, in raw units, to a goal if there is one.

        Args:
            observation: of the first token.
            goal: position features of the token of arrival, where the `rest` is 0.
            arrival: that token of each segment, from 1 on; the last if None.

        Warns where the model was not trained on that pattern.
        """
        name, raw = self._patterns.fill(observation, goal, arrival)
        # A model that knows of any arrival knows of the latest one.
        if not (name == "start_goal" and "start_arrival" in self.known):
            self._warn_of_pattern(name)
        return Known(raw.mask, self.normalizer.normalize(raw.values))

    def _warn_of_pattern(self, name: str, *, inside: int = 0) -> None:
        if name not in self.known:
            warnings.warn(
                f"This model was trained with the known patterns {list(self.known)}, not with "
                f"'{name}'; it may ignore what is given.",
                stacklevel=3 + inside,
            )

    def _warn_of_known(self, parts: Sequence[Known | Observed | None], tokens: int) -> None:
        """Warn where training has never given what is given here; `given` warns of its patterns."""
        masks = [part.mask.cpu() for part in parts if part is not None]
        none = torch.zeros(1, tokens, self.layout.features, dtype=torch.bool)
        if any(mask.shape[1:] != none.shape[1:] for mask in masks):
            return  # the sampler's error says so
        given = reduce(torch.logical_or, masks, none)
        if self._patterns.cover(given, per_token=self.levels.per_token):
            return
        trained = f"This model was trained with the known patterns {list(self.known)}, "
        warnings.warn(
            trained + "not with the features that `known` gives here; it may ignore them."
            if masks
            else trained + "never with nothing given; what it draws from noise alone may be far "
            "off. Give `known`, or train it with 'none' among its patterns.",
            stacklevel=3 + _MODES,
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def sample(
        self,
        *,
        batch: int,
        generators: Sequence[torch.Generator],
        known: Known | None = None,
        observed: Observed | None = None,
        condition: Condition | None = None,
        classifier_free: ClassifierFree | None = None,
        steps: int = 10,
        spacing: Spacing | None = None,
        levels: LevelMatrix | LevelSchedule | None = None,
        horizon: int | None = None,
        solver: Solver | None = None,
        guidance: Sequence[Guidance] = (),
        trust_region: TrustRegion | None = None,
        resample: Resample | None = None,
        history: HistoryGuidance | None = None,
        monte_carlo: MonteCarlo | None = None,
        clip: float | Limits | Literal["auto"] | None = "auto",
        stabilization: float = 0.0,
        cache: bool = True,
        start: Signal | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Signal:
        """Draw segments, in normalised units.

        Args:
            batch: number of segments.
            generators: source of all noise; each draws an equal share of the batch.
            known: what is given.
            observed: what was measured with noise, which guides do not move.
            condition: what the segments are to be like, in raw units: all of the model's
                conditions, or None for any segments.
            classifier_free: how strongly the condition steers; weight 1 if None.
            steps: steps of every token; ignored if `levels` is a matrix.
            spacing: which levels a token visits; equal steps of the level if None.
            levels: when each token visits them, or any level matrix; all tokens together if None.
                One whose columns differ asks for levels that a model trained on one level for the
                whole sequence has not seen, and a warning says so.
            horizon: tokens of a segment; those of the layout if None. Fewer need a causal network,
                which has seen sequences of every length up to its own; `pgdiff.rollout` makes more.
            solver: DDIM if None.
            guidance: bound guides (`pgdiff.guides.bind`).
            trust_region: limits how far they move a sample.
            resample: draws each generator's segments anew by their weights.
            history: views of the leading tokens that are known as a whole, whose estimates add up.
            monte_carlo: futures over which the gradients of guides at clean trajectories are
                averaged.
            clip: limit of x0_hat after guidance; None for no limit. "auto" is the ends of the data
                with the limits normaliser (1, but for `field_scales`), and with another
                `action_range`.
            stabilization: level, in [0, 1), that clean tokens are labelled with; 0 for the truth.
            cache: whether a causal network keeps what it has computed for leading tokens that stay
                as they are; the same up to rounding. A guide whose gradient goes through the
                denoiser has all tokens computed.
            start: noisy segments at the levels of a level matrix's first row, to begin from; noise
                if None.
            callback: called after every row.

        Raises:
            PgdiffError: a condition that does not fit the model's, or a setting out of its range.
        """
        batch = check_positive_int("batch", batch)
        check_kinds(
            known=known,
            observed=observed,
            classifier_free=classifier_free,
            solver=solver,
            trust_region=trust_region,
            resample=resample,
            history=history,
            monte_carlo=monte_carlo,
            start=start,
        )
        if condition is not None:
            check_part("condition", condition, Condition)
        check_each(
            "guidance", guidance, Guidance, hint="; pgdiff.guides.bind(guide, model) gives such"
        )
        check_level("stabilization", stabilization)
        tokens = self.checked_horizon(horizon)
        matrix = self.level_matrix(steps, spacing=spacing, levels=levels, horizon=horizon)
        known, observed = cut(known, tokens), cut(observed, tokens)
        self._warn_of_known((known, observed), tokens)
        differ = matrix.ndim > 0 and bool((matrix != matrix[..., :1]).any())
        told_apart = differ or observed is not None or history is not None or stabilization > 0
        if told_apart and not self.levels.per_token:
            warnings.warn(
                f"This model was trained with {self.levels!r}, one level for the whole sequence; "
                "it has not seen tokens of different levels.",
                stacklevel=2 + _MODES,
            )
        active = [guide for guide in guidance if guide.scale > 0]
        if monte_carlo is not None and active and not any(g.at == "denoiser" for g in active):
            warnings.warn(
                "`monte_carlo` tells near tokens what they are worth by gradients through the "
                "denoiser; all guides here have another `at`, and move each token by its own part "
                "of the energy alone. Set at='denoiser' for one.",
                stacklevel=2 + _MODES,
            )
        if clip == "auto":
            clip = limits_of(self.layout, self.normalizer, self.action_range)
        if classifier_free is not None and condition is None:
            raise PgdiffError("`condition` must be given with `classifier_free`. Got None.")
        weighting = ClassifierFree() if classifier_free is None else classifier_free
        self.check_trained_condition(given=condition is not None, weight=weighting.weight)
        # In half precision a condition such as a return of 1,000 would be rounded.
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        like = torch.zeros(0, dtype=dtype, device=self.device)
        told = recordable(self.conditioning.vector(condition, batch=batch, like=like))
        estimate: Callable[..., Tensor] = self._estimate
        network = self.network
        past = known is not None and bool(known.tokens[:, 0].all())
        if isinstance(network, Transformer) and self.causal and cache and (differ or past):
            estimate = partial(estimate, network=CachedCalls(network))

        def denoise(x: Signal, level: Level) -> Signal:
            if told is None:
                return estimate(x, level, None)
            # Views of a history and futures are more rows of the same trajectories.
            of_rows = told if len(told) == 1 else told.repeat(len(x) // len(told), 1)
            return weighting.estimate(estimate, x, level, of_rows)

        return sample(
            denoise,
            schedule=self.schedule,
            levels=matrix,
            shape=(batch, tokens, self.layout.features),
            generators=generators,
            solver=solver or DDIM(),
            known=known,
            observed=observed,
            guidance=guidance,
            trust_region=trust_region,
            resample=resample,
            clip=clip,
            distilled=self.distilled,
            history=history,
            monte_carlo=monte_carlo,
            stabilization=stabilization,
            variance=self.normalizer.normalized_variance.to(self.device),
            # Rescaling looks at all tokens.
            causal=self.causal and weighting.rescale == 0,
            start=start,
            callback=callback,
            dtype=dtype,
            device=self.device,
        )

    def level_matrix(
        self,
        steps: int,
        *,
        spacing: Spacing | None = None,
        levels: LevelMatrix | LevelSchedule | None = None,
        horizon: int | None = None,
    ) -> LevelMatrix:
        """The levels that sampling visits; see `sample` for the arguments."""
        check_kinds(spacing=spacing)
        if levels is not None:
            check_part("levels", levels, LevelSchedule, Tensor)
        if isinstance(levels, Tensor):
            if spacing is not None:
                raise PgdiffError(
                    "`spacing` must be None with a level matrix, whose levels it is to give. "
                    f"Got {spacing!r}."
                )
            return levels
        column = (UniformSpacing() if spacing is None else spacing).levels(
            check_positive_int("steps", steps), schedule=self.schedule
        )
        schedule = FullSequence() if levels is None else levels
        return schedule.matrix(column, tokens=self.checked_horizon(horizon))

    def checked_horizon(self, horizon: int | None) -> int:
        """Return the tokens of a segment of that horizon, those of the layout if None.

        Raises:
            PgdiffError: more than the model was trained on, or fewer where it is not causal.
        """
        most = self.layout.horizon
        if horizon is None or horizon == most:
            return most
        horizon = check_positive_int("horizon", horizon)
        if horizon > most:
            raise PgdiffError(
                f"`horizon` must be at most the {most} tokens that the model was trained on. "
                f"Got {horizon}; pgdiff.rollout goes further, window by window."
            )
        if not self.causal:
            raise PgdiffError(
                f"`horizon` must be the {most} tokens that the model was trained on, unless its "
                f"attention is 'causal' or 'window'. Got {horizon}."
            )
        return horizon

    @torch.inference_mode(False)
    @torch.no_grad()
    def log_likelihood(
        self,
        batch: Any,
        *,
        known: str = "start",
        condition: Condition | None = None,
        method: Literal["exact", "hutchinson"] = "exact",
        probes: int = 16,
        steps: int = 50,
        noise_min: float = 1e-3,
        seed: int = 0,
    ) -> LogLikelihood:
        """Log-density of recorded segments under the model, in raw units.

        Args:
            batch: segments as `dataset` gives them, as tensors.
            known: pattern of what is given, by name; the density is that of the rest.
            condition: what the segments are like; None for any.
            method: "exact" trace or "hutchinson"; see `pgdiff.diffusion.log_likelihood`.
            probes: random directions of "hutchinson".
            steps: Runge-Kutta steps.
            noise_min: ratio sigma / alpha that counts as clean: the finest detail that counts, in
                normalised units.
            seed: of the probes.

        Raises:
            PgdiffError: as `pgdiff.diffusion.log_likelihood`, or a pattern or condition that does
                not fit the model.
        """
        x = self.normalizer.normalize(self.tokens(batch)).to(self.device)
        mask = self.pattern(known).to(self.device)
        self._warn_of_pattern(known, inside=_MODES)
        if not batch.mask.all():
            raise PgdiffError("`batch` must hold whole segments. Got padding.")
        self.check_trained_condition(given=condition is not None)
        told = self.conditioning.vector(condition, batch=len(x), like=x)
        found = log_likelihood(
            lambda x, level: self._estimate(x, level, told),
            x,
            schedule=self.schedule,
            method=method,
            probes=probes,
            generator=torch.Generator(device=self.device).manual_seed(check_seed("seed", seed)),
            steps=steps,
            noise_min=noise_min,
            known=Known(mask[None], x),
        )
        slope = self.normalizer.log_slope(self.tokens(batch).to(found.value))
        return LogLikelihood(found.value + (slope * ~mask).sum(dim=(1, 2)), found.standard_error)

    def segment(self, x: Signal) -> Segment:
        """Normalised tokens as a segment in raw units, differentiable."""
        return self.layout.segment(self.normalizer.unnormalize(x))
