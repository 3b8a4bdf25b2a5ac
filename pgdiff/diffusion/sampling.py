"""The settings of a sampling."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.settings import part
from pgdiff.core.validation import (
    PgdiffError,
    check_flag,
    check_level,
    check_part,
    check_positive_int,
    check_range,
)
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.diffusion.guidance.history import HistoryGuidance
from pgdiff.diffusion.guidance.monte_carlo import MonteCarlo
from pgdiff.diffusion.guidance.trust_region import TrustRegion
from pgdiff.diffusion.level_schedules import FullSequence, LevelMatrix, LevelSchedule
from pgdiff.diffusion.particles import Resample
from pgdiff.diffusion.schedules import NoiseSchedule
from pgdiff.diffusion.solvers import DDIM, Solver
from pgdiff.diffusion.spacing import Spacing, UniformSpacing

Clip = float | tuple[Tensor, Tensor] | Literal["auto"] | None


@register("sampling", "sampling")
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of a sampling: solver, noise levels, clipping, and everything except the guides.

    They apply to samples, roll-outs, plans and synthetic data alike.

    Attributes:
        steps: number of denoising steps of every token; more steps follow the guides and the
            learned distribution more closely. Ignored if `level_schedule` is a matrix.
        solver: solver of one step.
        spacing: noise levels that a token visits. Ignored if `level_schedule` is a matrix.
        level_schedule: order in which tokens visit the levels, or a level matrix `[rows, tokens]`.
            If the columns differ, the model must be trained with a level for each token.
        horizon: number of tokens of a sample; the model's if None. Fewer need a causal network.
        clip: limit of the clean estimate in normalised units; None for no limit. "auto" uses the
            range of the data with the limits normaliser, and of the actions with another.
        classifier_free: weight of the condition against no condition; 1 if None.
        trust_region: limit of the guides' moves, relative to the unguided step.
        particles: resampling of the samples of one seed by their weights; None for independent
            samples.
        monte_carlo: futures over which the gradients of guides at clean trajectories are averaged.
        history: views of given leading tokens, whose estimates are summed.
        stabilization: label of clean tokens, a noise level in [0, 1).
        kv_cache: whether a causal network keeps keys and values of tokens that no longer change.
        noise_device: device on which noise is drawn; the model's if None. "cpu" draws equal noise
            for every device of the model.

    Raises:
        PgdiffError: a setting is out of range or has the wrong type.

    Example:
        >>> from pgdiff import Sampling
        >>> from pgdiff.diffusion import DDPM
        >>> Sampling(steps=20).replace(solver=DDPM()).steps
        20
    """

    steps: int = 10
    solver: Solver = field(default_factory=DDIM, metadata=part("solver"))
    spacing: Spacing = field(default_factory=UniformSpacing, metadata=part("spacing"))
    level_schedule: LevelSchedule | LevelMatrix = field(
        default_factory=FullSequence, metadata=part("level_schedule")
    )
    horizon: int | None = None
    clip: Clip = "auto"
    classifier_free: ClassifierFree | None = field(default=None, metadata=part("classifier_free"))
    trust_region: TrustRegion | None = field(default=None, metadata=part("trust_region"))
    particles: Resample | None = field(default=None, metadata=part("resample"))
    monte_carlo: MonteCarlo | None = field(default=None, metadata=part("monte_carlo"))
    history: HistoryGuidance | None = field(default=None, metadata=part("history"))
    stabilization: float = 0.0
    kv_cache: bool = True
    noise_device: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_positive_int("steps", self.steps))
        check_part("solver", self.solver, Solver)
        check_part("spacing", self.spacing, Spacing)
        check_part("level_schedule", self.level_schedule, LevelSchedule, Tensor)
        if self.horizon is not None:
            object.__setattr__(self, "horizon", check_positive_int("horizon", self.horizon))
        if not (self.clip is None or isinstance(self.clip, tuple) or self.clip == "auto"):
            check_range("clip", self.clip, low=0.0, open_low=True)
        for name, kind in _OPTIONAL.items():
            if getattr(self, name) is not None:
                check_part(name, getattr(self, name), kind)
        check_level("stabilization", self.stabilization)
        check_flag("kv_cache", self.kv_cache)
        if self.particles is not None and self.monte_carlo is not None:
            raise PgdiffError("`monte_carlo` must be None with `particles`. Got both.")

    def replace(self, **changes: Any) -> "Sampling":
        """Return a copy with changed settings."""
        return replace(self, **changes)

    def levels(self, noise_schedule: NoiseSchedule, *, tokens: int) -> LevelMatrix:
        """Return the level matrix `[rows, tokens]` of a sampling.

        Args:
            noise_schedule: signal and noise at a level.
            tokens: number of tokens of a sample.
        """
        if isinstance(self.level_schedule, Tensor):
            return self.level_schedule
        column = self.spacing.levels(self.steps, noise_schedule=noise_schedule)
        return self.level_schedule.matrix(column, tokens=tokens)


_OPTIONAL: dict[str, type] = {
    "classifier_free": ClassifierFree,
    "trust_region": TrustRegion,
    "particles": Resample,
    "monte_carlo": MonteCarlo,
    "history": HistoryGuidance,
}
