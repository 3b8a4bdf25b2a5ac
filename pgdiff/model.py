"""The trajectory diffusion model: denoiser, noise schedule, normaliser and layout in one."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdiff.clipping import Limits, checked_range, limits_of, recorded_range
from pgdiff.conditioning import Conditioning
from pgdiff.data import ConditionedDataset, Conditioner, Episodes, Normalizer, SegmentDataset
from pgdiff.data.observation_layout import ObservationLayout, position_of_goals
from pgdiff.data.segments import token_fields
from pgdiff.data.squashed import fit_tokens
from pgdiff.denoisers import DenoiserConfig, TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    CosineSchedule,
    Guidance,
    Known,
    LogLikelihood,
    NoiseSchedule,
    Resample,
    SamplerStep,
    Solver,
    TrustRegion,
    X0Prediction,
    diffusion_loss,
    log_likelihood,
    sample,
)
from pgdiff.diffusion.classifier_free import ClassifierFree, ConditionVector, drop_condition
from pgdiff.diffusion.level_schedules import FullSequence, LevelMatrix, LevelSchedule
from pgdiff.diffusion.loss_weights import LossWeight, UniformWeight
from pgdiff.diffusion.predictions import Prediction, clean_estimate
from pgdiff.diffusion.schedules import check_leak
from pgdiff.diffusion.spacing import Spacing, UniformSpacing
from pgdiff.diffusion.training_levels import SequenceLevels, TrainingLevels
from pgdiff.given import KnownPatterns
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.trajectory import Condition, Layout, Segment
from pgdiff.validation import PgdiffError, check_in, check_positive_int, check_range, check_seed

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]

LOUD = 4.0
"""Noise, in units of the normalised data, beside which what is scaled with it is hardly seen."""


@register("learner", "trajectory_diffusion")
class TrajectoryDiffusion(Pretrained):
    """A diffusion model of trajectory segments; a `Learner` for `Trainer`.

    Schedules of levels, solvers, guides and consumers are arguments at sampling time: one trained
    model serves them all.

    Args:
        layout: what the features of a token are, how many tokens, and how far apart.
        normalizer: from raw units to those of the network.
        denoiser: description of the network.
        schedule: signal and noise at a level.
        prediction: what the network's raw output means.
        known: patterns of given features that training draws from, by name: "none", "start" (the
            first token), "start_goal" (and the position features of the last), "start_arrival" (and
            those of any one token, drawn anew for every segment: a goal with a free arrival time).
        position: indices of the features that a goal gives.
        rest: indices of the features that are held at 0 with a goal, such as velocities: plans come
            to rest there, as Janner et al. (2022) have it on maze2d.
        levels: law of the noise levels that training draws; one for all tokens of a sequence if
            None. (Format 1 has a tuple of the one name that it knew.)
        loss_weight: how much an error counts at a level; alike if None.
        distilled: whether x0_hat is a consistency function, which a consistency solver needs.
        conditions: what samples can be asked to be like: a return, a goal, a class.
        condition_dropout: share of segments trained on without it (Ho & Salimans 2022); 0 to 1.
        observation_layout: how Dict observations were flattened; None where they were flat.
        action_range: least and greatest action, which samples keep to; None for any.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        normalizer: Normalizer,
        denoiser: DenoiserConfig,
        schedule: NoiseSchedule,
        prediction: Prediction,
        known: Sequence[str] = ("start",),
        position: Sequence[int] = (0, 1),
        rest: Sequence[int] = (),
        levels: TrainingLevels | Sequence[str] | None = None,
        loss_weight: LossWeight | None = None,
        distilled: bool = False,
        conditions: Sequence[Conditioner] = (),
        condition_dropout: float = 0.1,
        observation_layout: ObservationLayout | None = None,
        action_range: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        prediction.check(schedule)
        check_leak(schedule, allow_leak=bool(getattr(schedule, "allow_leak", False)))
        if normalizer.features != layout.features:
            raise PgdiffError(
                f"`normalizer` must have the {layout.features} features of the layout. "
                f"Got {normalizer.features}."
            )
        if isinstance(levels, Sequence):
            for name in levels:
                check_in("levels", name, ("sequence",))
            levels = None
        if hasattr(denoiser, "check_tokens"):
            denoiser.check_tokens(layout.horizon)
        self.layout = layout
        self.observation_layout = observation_layout
        self.action_range = checked_range(action_range, layout)
        self.normalizer = normalizer
        self.denoiser = denoiser
        self.schedule = schedule
        self.prediction = prediction
        self.known = tuple(known)
        self.position = tuple(position)
        self.rest = tuple(rest)
        self.levels = SequenceLevels() if levels is None else levels
        self.loss_weight = UniformWeight() if loss_weight is None else loss_weight
        self.distilled = distilled
        self.conditions = tuple(conditions)
        self.conditioning = Conditioning(self.conditions)
        self.condition_dropout = check_range(
            "condition_dropout", condition_dropout, low=0.0, high=1.0
        )
        size = {"condition": self.conditioning.size} if self.conditions else {}
        self.network = denoiser.build(features=layout.features, **size)
        self._patterns = KnownPatterns(known, layout=layout, position=position, rest=rest)
        self.register_buffer("_masks", self._patterns.all_masks, persistent=False)
        noisiest = torch.ones((), dtype=torch.float64)
        scaled = type(prediction).scale_input is not Prediction.scale_input
        if self._patterns.partial and scaled and float(schedule.sigma(noisiest)) > LOUD:
            raise PgdiffError(
                "`prediction` must not scale its input where tokens are known in part and the "
                "noise is loud: what is known would be scaled away with it. Got "
                f"{prediction!r} and {schedule!r}; use a schedule that preserves variance, or "
                "know whole tokens."
            )

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        *,
        horizon: int,
        stride: int = 1,
        fields: Sequence[str] = ("observations",),
        denoiser: DenoiserConfig | None = None,
        schedule: NoiseSchedule | None = None,
        prediction: Prediction | None = None,
        normalizer: str = "limits",
        known: Sequence[str] = ("start",),
        position: Sequence[int] | None = None,
        rest: Sequence[int] = (),
        levels: TrainingLevels | None = None,
        loss_weight: LossWeight | None = None,
        conditions: Sequence[Conditioner] = (),
        condition_dropout: float = 0.1,
        seed: int = 0,
    ) -> "TrajectoryDiffusion":
        """Make a new model whose layout and normaliser fit recorded experience.

        Args:
            episodes: recorded experience.
            horizon: tokens of a segment.
            stride: environment steps between neighbouring tokens.
            fields: what a token holds: "observations", and with them "actions" (the one at its row)
                or "action_chunks" (all those up to the next token), "rewards" (their sum up to the
                next token), "terminals" and "next_observations" (after the row).
            denoiser: the network; a transformer of width 128 and depth 3 if None.
            schedule: cosine if None.
            prediction: x0 if None.
            normalizer: "limits", "standard" or "arctanh" (of actions; the rest as "standard").
            known: patterns of given features to train on.
            position: indices of the features that a goal gives; those of the recording's layout
                of Dict observations if None, and the first two where it has none.
            rest: indices of the features that are held at 0 with a goal.
            levels: law of the training's noise levels; one for each sequence if None.
            loss_weight: how much an error counts at a level; alike if None.
            conditions: what samples can be asked to be like; what they lack is fitted.
            condition_dropout: share of the training's segments whose condition is hidden.
            seed: of the first weights.
        """
        check_positive_int("stride", stride)
        parts = token_fields(episodes, fields, stride=stride)
        sizes = tuple((name, array.shape[-1] * repeat) for name, array, repeat in parts)
        layout = Layout(fields=sizes, horizon=horizon, stride=stride)
        Conditioning(conditions)  # the clearest error, where one of them is something else
        with seeded_torch(seed=seed):
            return cls(
                layout=layout,
                normalizer=fit_tokens(normalizer, parts),
                denoiser=TransformerConfig() if denoiser is None else denoiser,
                schedule=CosineSchedule() if schedule is None else schedule,
                prediction=X0Prediction() if prediction is None else prediction,
                known=known,
                position=position_of_goals(position, episodes.observation_layout),
                rest=rest,
                levels=levels,
                loss_weight=loss_weight,
                conditions=[condition.fit(episodes) for condition in conditions],
                condition_dropout=condition_dropout,
                observation_layout=episodes.observation_layout,
                action_range=recorded_range(episodes, layout),
            )

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> SegmentDataset | ConditionedDataset:
        """Segments of the model's horizon and stride, with their conditions if it has some."""
        segments = SegmentDataset(
            episodes,
            self.layout.horizon,
            self.layout.stride,
            fields=tuple(self.layout.slices),
            padding="terminal" if "terminals" in self.layout.slices else "none",
        )
        return ConditionedDataset(segments, self.conditions) if self.conditions else segments

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion loss of a batch of segments; all noise comes from `generator`."""
        x0 = self.normalizer.normalize(self.tokens(batch))
        count, tokens, _ = x0.shape
        level = self.levels.draw(count, tokens, schedule=self.schedule, generator=generator)
        epsilon = torch.randn(x0.shape, generator=generator, device=generator.device)
        masks: Tensor = self.get_buffer("_masks")
        choice = self._patterns.draw(count, generator)
        condition = None
        if self.conditions:
            condition = drop_condition(
                self.conditioning.encode(batch.condition),
                dropout=self.condition_dropout,
                generator=generator,
            )
        loss = diffusion_loss(
            self._network(condition),
            x0,
            level,
            epsilon,
            schedule=self.schedule,
            prediction=self.prediction,
            known=masks[choice],
            valid=batch.mask,
            loss_weight=self.loss_weight,
        )
        return {"diffusion": loss}

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
        for name in set(self.layout.slices) - {"observations", "actions", "action_chunks"}:
            raise PgdiffError(
                f"`fields` must not hold '{name}' where a plan is put back into tokens, which does "
                "not keep them: plan with keep_plan=False and without `warm_start`."
            )
        parts = {"observations": torch.as_tensor(observations)}
        if actions is not None:
            count, tokens = observations.shape[:2]
            flat = torch.as_tensor(actions).reshape(count, tokens, -1)
            parts |= {"actions": flat, "action_chunks": flat}
        return torch.cat([parts[name] for name, _ in self.layout.fields], dim=-1).to(self.device)

    def tokens(self, batch: Any) -> Signal:
        """Put the layout's fields of a batch into tokens, in raw units."""
        fields = [getattr(batch, name) for name, _ in self.layout.fields]
        return torch.cat([f[..., None] if f.ndim == 2 else f for f in fields], dim=-1)

    # ---------------------------------------------------------------------------------- sampling

    def denoise(self, x: Signal, level: Level, condition: Condition | None = None) -> Signal:
        """Clean estimate x0_hat of noisy tokens, both normalised.

        Args:
            x: noisy tokens.
            level: their levels; a batch of 1 stands for all rows alike.
            condition: what the trajectories are like, in raw units; None for any.

        Raises:
            PgdiffError: a condition that does not fit the model's.
        """
        told = self.conditioning.vector(condition, batch=len(x), like=x)
        return self._estimate(x, level, told)

    def _estimate(self, x: Signal, level: Level, condition: ConditionVector | None) -> Signal:
        return clean_estimate(
            self._network(condition), x, level, schedule=self.schedule, prediction=self.prediction
        )

    def _network(self, condition: ConditionVector | None) -> Callable[[Signal, Level], Signal]:
        """The network as a function of noisy tokens and levels alone."""
        if condition is None:
            return self.network
        return lambda x, level: self.network(x, level, condition)

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

    def _warn_of_pattern(self, name: str) -> None:
        if name not in self.known:
            warnings.warn(
                f"This model was trained with the known patterns {list(self.known)}, not with "
                f"'{name}'; it may ignore what is given.",
                stacklevel=3,
            )

    def sample(
        self,
        *,
        batch: int,
        generators: Sequence[torch.Generator],
        known: Known | None = None,
        condition: Condition | None = None,
        classifier_free: ClassifierFree | None = None,
        steps: int = 10,
        spacing: Spacing | None = None,
        levels: LevelMatrix | LevelSchedule | None = None,
        solver: Solver | None = None,
        guidance: Sequence[Guidance] = (),
        trust_region: TrustRegion | None = None,
        resample: Resample | None = None,
        clip: float | Limits | Literal["auto"] | None = "auto",
        start: Signal | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Signal:
        """Draw segments, in normalised units.

        Args:
            batch: number of segments.
            generators: source of all noise; each draws an equal share of the batch.
            known: what is given.
            condition: what the segments are to be like, in raw units: all of the model's
                conditions, or None for any segments.
            classifier_free: how strongly the condition steers; weight 1 if None.
            steps: steps of every token; ignored if `levels` is a matrix.
            spacing: which levels a token visits; equal steps of the level if None.
            levels: when each token visits them, or any level matrix; all tokens together if None.
                One whose columns differ asks for levels that a model trained on one level for the
                whole sequence has not seen, and a warning says so.
            solver: DDIM if None.
            guidance: bound guides (`pgdiff.guides.bind`).
            trust_region: limits how far they move a sample.
            resample: draws each generator's segments anew by their weights.
            clip: limit of x0_hat after guidance; None for no limit. "auto" is 1 with the limits
                normaliser, which puts the data into [-1, 1], and with another `action_range`.
            start: noisy segments at the levels of a level matrix's first row, to begin from; noise
                if None.
            callback: called after every row.

        Raises:
            PgdiffError: a condition that does not fit the model's, or a setting out of its range.
        """
        check_positive_int("batch", batch)
        matrix = self.level_matrix(steps, spacing=spacing, levels=levels)
        if not self.levels.per_token and (matrix != matrix[..., :1]).any():
            warnings.warn(
                f"This model was trained with {self.levels!r}, one level for the whole sequence; "
                "it has not seen tokens of different levels.",
                stacklevel=2,
            )
        if clip == "auto":
            clip = limits_of(self.layout, self.normalizer, self.action_range)
        if classifier_free is not None and condition is None:
            raise PgdiffError("`condition` must be given with `classifier_free`. Got None.")
        weighting = ClassifierFree() if classifier_free is None else classifier_free
        told = self.conditioning.vector(condition, batch=batch, like=next(self.parameters()))

        def denoise(x: Signal, level: Level) -> Signal:
            if told is None:
                return self._estimate(x, level, None)
            return weighting.estimate(self._estimate, x, level, told)

        return sample(
            denoise,
            schedule=self.schedule,
            levels=matrix,
            shape=(batch, self.layout.horizon, self.layout.features),
            generators=generators,
            solver=solver or DDIM(),
            known=known,
            guidance=guidance,
            trust_region=trust_region,
            resample=resample,
            clip=clip,
            distilled=self.distilled,
            start=start,
            callback=callback,
            device=self.device,
        )

    def level_matrix(
        self,
        steps: int,
        *,
        spacing: Spacing | None = None,
        levels: LevelMatrix | LevelSchedule | None = None,
    ) -> LevelMatrix:
        """The levels that sampling visits; see `sample` for the arguments."""
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
        return schedule.matrix(column, tokens=self.layout.horizon)

    def log_likelihood(
        self,
        batch: Any,
        *,
        known: str = "start",
        condition: Condition | None = None,
        method: Literal["exact", "hutchinson"] = "exact",
        probes: int = 16,
        steps: int = 50,
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
            seed: of the probes.

        Raises:
            PgdiffError: as `pgdiff.diffusion.log_likelihood`, or a pattern or condition that does
                not fit the model.
        """
        x = self.normalizer.normalize(self.tokens(batch)).to(self.device)
        mask = self.pattern(known).to(self.device)
        self._warn_of_pattern(known)
        if not batch.mask.all():
            raise PgdiffError("`batch` must hold whole segments. Got padding.")
        told = self.conditioning.vector(condition, batch=len(x), like=x)
        found = log_likelihood(
            lambda x, level: self._estimate(x, level, told),
            x,
            schedule=self.schedule,
            method=method,
            probes=probes,
            generator=torch.Generator(device=self.device).manual_seed(check_seed("seed", seed)),
            steps=steps,
            known=Known(mask[None], x),
        )
        slope = self.normalizer.log_slope(self.tokens(batch).to(found.value))
        return LogLikelihood(found.value + (slope * ~mask).sum(dim=(1, 2)), found.standard_error)

    def segment(self, x: Signal) -> Segment:
        """Normalised tokens as a segment in raw units, differentiable."""
        return self.layout.segment(self.normalizer.unnormalize(x))
