"""The trajectory diffusion model: denoiser, noise schedule, normaliser and layout in one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.clipping import checked_range, recorded_range
from pgdiff.conditioning import Conditioning
from pgdiff.data import ConditionedDataset, Conditioner, Episodes, Normalizer, SegmentDataset
from pgdiff.data.observation_layout import ObservationLayout, position_of_goals
from pgdiff.data.segments import token_fields
from pgdiff.data.squashed import fit_tokens
from pgdiff.denoisers import DenoiserConfig, TransformerConfig
from pgdiff.diffusion import (
    CosineSchedule,
    NoiseSchedule,
    X0Prediction,
    diffusion_loss,
)
from pgdiff.diffusion.classifier_free import drop_condition
from pgdiff.diffusion.loss_weights import LossWeight, UniformWeight
from pgdiff.diffusion.predictions import Prediction
from pgdiff.diffusion.schedules import check_leak
from pgdiff.diffusion.training_levels import SequenceLevels, TrainingLevels
from pgdiff.given import KnownPatterns
from pgdiff.pretrained import seeded_torch
from pgdiff.registry import from_config, register, to_config
from pgdiff.sampled import Sampled
from pgdiff.trajectory import Layout
from pgdiff.validation import PgdiffError, check_in, check_part, check_positive_int, check_range

Signal = Float[Tensor, "batch tokens features"]
Level = Float[Tensor, "#batch tokens"]

LOUD = 4.0
"""Noise, in units of the normalised data, beside which what is scaled with it is hardly seen."""


@register("learner", "trajectory_diffusion")
class TrajectoryDiffusion(Sampled):
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
        check_part("schedule", schedule, NoiseSchedule)
        check_part("prediction", prediction, Prediction)
        prediction.check(schedule)
        check_leak(schedule, allow_leak=bool(getattr(schedule, "allow_leak", False)))
        if normalizer.features != layout.features:
            raise PgdiffError(
                f"`normalizer` must have the {layout.features} features of the layout. "
                f"Got {normalizer.features}."
            )
        if isinstance(levels, Sequence) and not isinstance(levels, str):
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
        self._prediction = prediction.of_features(normalizer.factor)
        self.known = tuple(known)
        self.position = tuple(position)
        self.rest = tuple(rest)
        law = SequenceLevels() if levels is None else levels
        self.levels = check_part("levels", law, TrainingLevels)
        weight = UniformWeight() if loss_weight is None else loss_weight
        self.loss_weight = check_part("loss_weight", weight, LossWeight)
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
        field_scales: Mapping[str, float] | None = None,
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
                or "action_chunks" (all those up to the next token) or "previous_actions" (all
                those since the token before), "rewards" (their sum up to the next token),
                "terminals" and "next_observations" (after the row).
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
            field_scales: factors of normalised fields, by name; 1 if not named. A small field is
                lost in noise sooner, so that samples settle the others first and it follows them,
                and its errors count less, by the square.
            conditions: what samples can be asked to be like; what they lack is fitted.
            condition_dropout: share of the training's segments whose condition is hidden.
            seed: of the first weights.
        """
        stride = check_positive_int("stride", stride)
        parts = token_fields(episodes, fields, stride=stride)
        sizes = tuple((name, array.shape[-1] * repeat) for name, array, repeat in parts)
        layout = Layout(fields=sizes, horizon=horizon, stride=stride)
        Conditioning(conditions)  # the clearest error, where one of them is something else
        with seeded_torch(seed=seed):
            return cls(
                layout=layout,
                normalizer=fit_tokens(normalizer, parts, scales=field_scales),
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

    def with_horizon(self, horizon: int) -> "TrajectoryDiffusion":
        """The model for so many tokens: itself, or a copy with its weights as they are now.

        Raises:
            PgdiffError: more tokens than it was trained on, or fewer where it is not causal.
        """
        return (
            self if self.checked_horizon(horizon) == self.layout.horizon else self.resized(horizon)
        )

    def resized(self, horizon: int) -> "TrajectoryDiffusion":
        """Such a copy, whether the network has learned from segments of that length or not."""
        config = to_config(self)
        config["layout"]["horizon"] = horizon
        with seeded_torch(seed=0):
            made: TrajectoryDiffusion = from_config("learner", config)
        made.load_state_dict(self.state_dict())
        return made.to(self.device).train(self.training)

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
            prediction=self._prediction,
            known=masks[choice],
            valid=batch.mask,
            loss_weight=self.loss_weight,
        )
        return {"diffusion": loss}
