"""The trajectory diffusion model: denoiser, noise schedule, normaliser and layout in one."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pgdiff.data import Episodes, SegmentDataset
from pgdiff.data.normalizers import LimitsNormalizer, Normalizer, fit_normalizer
from pgdiff.denoisers import DenoiserConfig, TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    CosineSchedule,
    Guidance,
    Known,
    NoiseSchedule,
    SamplerStep,
    Solver,
    X0Prediction,
    diffusion_loss,
    full_sequence,
    sample,
)
from pgdiff.diffusion.level_schedules import LevelMatrix
from pgdiff.diffusion.loss import sequence_levels
from pgdiff.diffusion.patterns import pattern_mask
from pgdiff.diffusion.predictions import Prediction
from pgdiff.pretrained import Pretrained, seeded_torch
from pgdiff.registry import register
from pgdiff.trajectory import Layout, Segment
from pgdiff.validation import PgdiffError, check_in, check_positive_int

Signal = Float[Tensor, "batch tokens features"]


LEVELS = ("sequence",)


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
            first token), "start_goal" (and the position features of the last).
        position: indices of the features that a goal gives.
        levels: mixture of noise levels that training draws from, by name: "sequence", one level for
            all tokens that are not given.
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
        levels: Sequence[str] = ("sequence",),
    ) -> None:
        super().__init__()
        prediction.check(schedule)
        if normalizer.features != layout.features:
            raise PgdiffError(
                f"`normalizer` must have the {layout.features} features of the layout. "
                f"Got {normalizer.features}."
            )
        if not known:
            raise PgdiffError("`known` must name at least one pattern. Got none.")
        for name in levels:
            check_in("levels", name, LEVELS)
        self.layout = layout
        self.normalizer = normalizer
        self.denoiser = denoiser
        self.schedule = schedule
        self.prediction = prediction
        self.known = tuple(known)
        self.position = tuple(position)
        self.levels = tuple(levels)
        self.network = denoiser.build(features=layout.features)
        masks = [self.pattern(name) for name in self.known]
        self.register_buffer("_masks", torch.stack(masks), persistent=False)

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
        position: Sequence[int] = (0, 1),
        seed: int = 0,
    ) -> "TrajectoryDiffusion":
        """Make a new model whose layout and normaliser fit recorded experience.

        Args:
            episodes: recorded experience.
            horizon: tokens of a segment.
            stride: environment steps between neighbouring tokens.
            fields: what a token holds.
            denoiser: the network; a transformer of width 128 and depth 3 if None.
            schedule: cosine if None.
            prediction: x0 if None.
            normalizer: "limits" or "standard".
            known: patterns of given features to train on.
            position: indices of the features that a goal gives.
            seed: of the first weights.
        """
        for name in fields:
            check_in("fields", name, ("observations", "actions"))
        sizes = tuple((name, getattr(episodes, name).shape[-1]) for name in fields)
        layout = Layout(fields=sizes, horizon=horizon, stride=stride)
        with seeded_torch(seed=seed):
            return cls(
                layout=layout,
                normalizer=fit_normalizer(normalizer, [getattr(episodes, name) for name in fields]),
                denoiser=denoiser or TransformerConfig(),
                schedule=schedule or CosineSchedule(),
                prediction=prediction or X0Prediction(),
                known=known,
                position=position,
            )

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> SegmentDataset:
        """Segments of the model's horizon and stride."""
        return SegmentDataset(
            episodes,
            self.layout.horizon,
            self.layout.stride,
            fields=tuple(name for name, _ in self.layout.fields),
        )

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion loss of a batch of segments; all noise comes from `generator`."""
        x0 = self.normalizer.normalize(self.tokens(batch))
        count, tokens, _ = x0.shape
        level = sequence_levels(count, tokens, generator=generator)
        epsilon = torch.randn(x0.shape, generator=generator, device=generator.device)
        choice = torch.randint(
            len(self.known), (count,), generator=generator, device=generator.device
        )
        masks: Tensor = self.get_buffer("_masks")
        loss = diffusion_loss(
            self.network,
            x0,
            level,
            epsilon,
            schedule=self.schedule,
            prediction=self.prediction,
            known=masks[choice],
            valid=batch.mask,
        )
        return {"diffusion": loss}

    def tokens(self, batch: Any) -> Signal:
        """Put the layout's fields of a batch into tokens, in raw units."""
        fields = [getattr(batch, name) for name, _ in self.layout.fields]
        return torch.cat([f[..., None] if f.ndim == 2 else f for f in fields], dim=-1)

    # ---------------------------------------------------------------------------------- sampling

    def denoise(self, x: Signal, level: Float[Tensor, "#batch tokens"]) -> Signal:
        """Clean estimate x0_hat of noisy tokens, both normalised."""
        alpha, sigma = self.schedule.alpha(level)[..., None], self.schedule.sigma(level)[..., None]
        return self.prediction.to_x0(self.network(x, level), x, alpha, sigma)

    def pattern(self, name: str) -> Bool[Tensor, "tokens features"]:
        """Mask of what the pattern of that name gives."""
        where = self.layout.slices["observations"]
        size = where.stop - where.start
        if name == "start_goal" and not all(0 <= index < size for index in self.position):
            raise PgdiffError(
                f"`position` must be indices of the {size} features of an observation. "
                f"Got {list(self.position)}."
            )
        return pattern_mask(
            name,
            tokens=self.layout.horizon,
            features=self.layout.features,
            observation=range(where.start, where.stop),
            goal=[where.start + index for index in self.position],
        )

    def given(
        self,
        observation: Float[Tensor, "batch observation"],
        goal: Float[Tensor, "batch goal"] | None = None,
    ) -> Known:
        """What is known when planning from an observation, in raw units, to a goal if there is one.

        Warns where the model was not trained on that pattern.
        """
        name = "start" if goal is None else "start_goal"
        if name not in self.known:
            warnings.warn(
                f"This model was trained with the known patterns {list(self.known)}, not with "
                f"'{name}'; its samples may ignore what is given.",
                stacklevel=2,
            )
        count = len(observation)
        where = self.layout.slices["observations"]
        _check_given("observation", observation, [count, where.stop - where.start])
        if goal is not None:
            _check_given("goal", goal, [count, len(self.position)])
        raw = observation.new_zeros(count, self.layout.horizon, self.layout.features)
        raw[:, 0, where] = observation
        if goal is not None:
            raw[:, -1, [where.start + index for index in self.position]] = goal
        mask = self.pattern(name).to(observation.device)
        values = self.normalizer.normalize(raw)
        return Known(mask[None], values)

    def sample(
        self,
        *,
        batch: int,
        generators: Sequence[torch.Generator],
        known: Known | None = None,
        steps: int = 10,
        levels: LevelMatrix | None = None,
        solver: Solver | None = None,
        guidance: Sequence[Guidance] = (),
        clip: float | Literal["auto"] | None = "auto",
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Signal:
        """Draw segments, in normalised units.

        Args:
            batch: number of segments.
            generators: source of all noise; each draws an equal share of the batch.
            known: what is given.
            steps: steps of the full sequence; ignored if `levels` is given.
            levels: any level matrix. One whose columns differ asks for levels that a model trained
                on one level for the whole sequence has not seen, and a warning says so.
            solver: DDIM if None.
            guidance: bound guides (`pgdiff.guides.bind`).
            clip: limit of x0_hat after guidance; None for no limit. "auto" is 1 with the limits
                normaliser, which puts the data into [-1, 1], and no limit with another.
            callback: called after every row.
        """
        check_positive_int("batch", batch)
        tokens = self.layout.horizon
        if levels is not None and (levels != levels[..., :1]).any():
            warnings.warn(
                f"This model was trained with the levels {list(self.levels)}, one for the whole "
                "sequence; it has not seen tokens of different levels.",
                stacklevel=2,
            )
        if clip == "auto":
            clip = 1.0 if isinstance(self.normalizer, LimitsNormalizer) else None
        return sample(
            self.denoise,
            schedule=self.schedule,
            levels=full_sequence(steps=steps, tokens=tokens) if levels is None else levels,
            shape=(batch, tokens, self.layout.features),
            generators=generators,
            solver=solver or DDIM(),
            known=known,
            guidance=guidance,
            clip=clip,
            callback=callback,
            device=self.device,
        )

    def segment(self, x: Signal) -> Segment:
        """Normalised tokens as a segment in raw units, differentiable."""
        return self.layout.segment(self.normalizer.unnormalize(x))


def _check_given(name: str, value: Tensor, shape: list[int]) -> None:
    if list(value.shape) != shape:
        raise PgdiffError(f"`{name}` must have shape {shape}. Got {list(value.shape)}.")
    if not torch.isfinite(value).all():
        raise PgdiffError(f"`{name}` must be finite. Got NaN or Inf.")
