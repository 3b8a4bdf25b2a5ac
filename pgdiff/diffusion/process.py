"""The diffusion process: its parts must fit each other, in training and in sampling."""

from dataclasses import dataclass, field

from pgdiff.core.registry import register
from pgdiff.core.settings import part
from pgdiff.core.validation import check_part
from pgdiff.diffusion.level_distributions import (
    ForcingLevels,
    LevelDistribution,
    LogNormalLevels,
    SequenceLevels,
)
from pgdiff.diffusion.loss import LossWeight, UniformWeight
from pgdiff.diffusion.predictions import EDMPrediction, FlowPrediction, Prediction, X0Prediction
from pgdiff.diffusion.schedules import (
    CosineSchedule,
    EDMSchedule,
    FlowSchedule,
    NoiseSchedule,
    check_leak,
)


@register("process", "diffusion")
@dataclass(frozen=True, kw_only=True)
class DiffusionProcess:
    """The forward process from data to noise, and the network's training target.

    Attributes:
        noise_schedule: signal and noise of a token at a noise level.
        prediction: meaning of the network's raw output.
        level_distribution: distribution of the noise levels in training: one level for all tokens
            of a sequence, or one for each token.
        loss_weight: weight of an error by noise level.

    Raises:
        PgdiffError: the prediction does not fit the noise schedule, or signal is left at the
            schedule's noisiest level.

    Example:
        >>> from pgdiff import DiffusionProcess
        >>> DiffusionProcess.edm().prediction
        EDMPrediction(sigma_data=0.5)
    """

    noise_schedule: NoiseSchedule = field(
        default_factory=CosineSchedule, metadata=part("noise_schedule")
    )
    prediction: Prediction = field(default_factory=X0Prediction, metadata=part("prediction"))
    level_distribution: LevelDistribution = field(
        default_factory=SequenceLevels, metadata=part("level_distribution")
    )
    loss_weight: LossWeight = field(default_factory=UniformWeight, metadata=part("loss_weight"))

    def __post_init__(self) -> None:
        check_part("noise_schedule", self.noise_schedule, NoiseSchedule)
        check_part("prediction", self.prediction, Prediction)
        self.prediction.check(self.noise_schedule)
        leaks = bool(getattr(self.noise_schedule, "allow_leak", False))
        check_leak(self.noise_schedule, allow_leak=leaks)
        check_part("level_distribution", self.level_distribution, LevelDistribution)
        check_part("loss_weight", self.loss_weight, LossWeight)

    @classmethod
    def cosine(cls) -> "DiffusionProcess":
        """Return the default process: cosine schedule, prediction of the clean tokens."""
        return cls()

    @classmethod
    def edm(cls, *, sigma_data: float = 0.5) -> "DiffusionProcess":
        """Return the process of EDM (Karras et al. 2022).

        Args:
            sigma_data: standard deviation of the normalised data.
        """
        return cls(
            noise_schedule=EDMSchedule(),
            prediction=EDMPrediction(sigma_data=sigma_data),
            level_distribution=LogNormalLevels(),
        )

    @classmethod
    def flow(cls) -> "DiffusionProcess":
        """Return the process of rectified flow (Liu et al. 2023)."""
        return cls(noise_schedule=FlowSchedule(), prediction=FlowPrediction())

    @classmethod
    def forcing(cls) -> "DiffusionProcess":
        """Return the cosine process with a level for each token (Chen et al. 2024)."""
        return cls(level_distribution=ForcingLevels())
