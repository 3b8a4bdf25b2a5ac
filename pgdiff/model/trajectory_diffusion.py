"""The trajectory diffusion model: a codec, a denoiser and a diffusion process."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdiff.core.context import Context
from pgdiff.core.pretrained import Pretrained, seeded_torch
from pgdiff.core.registry import register
from pgdiff.core.validation import (
    PgdiffError,
    check_each,
    check_in,
    check_part,
    check_positive_int,
    check_seed,
)
from pgdiff.data import ConditionedDataset, Conditioner, Episodes
from pgdiff.denoisers import (
    CachedCalls,
    CausalNetwork,
    DenoiserConfig,
    DenoiserSpec,
    TransformerConfig,
)
from pgdiff.diffusion import (
    DiffusionProcess,
    Guidance,
    Inpainting,
    LogLikelihood,
    Measurement,
    NoiseSource,
    PreparedSampling,
    SamplerStep,
    Sampling,
    diffusion_loss_terms,
    log_likelihood,
)
from pgdiff.diffusion.differentiation import recordable
from pgdiff.diffusion.guidance.classifier_free import ClassifierFree
from pgdiff.diffusion.level_schedules import LevelMatrix
from pgdiff.diffusion.predictions import Prediction, clean_estimate
from pgdiff.diffusion.sampler import prepare, run
from pgdiff.diffusion.schedules import NoiseSchedule, factors
from pgdiff.model.affine_codec import AffineCodec
from pgdiff.model.codec import Codec, Signal
from pgdiff.model.conditioning import Conditioning
from pgdiff.model.guidance import Guide, bind, score
from pgdiff.model.inpainting import InpaintingPatterns, cut
from pgdiff.model.tokens import Tokens
from pgdiff.trajectory import Condition, Segment

Level = Float[Tensor, "#batch tokens"]
Seed = int | Sequence[int] | Sequence[torch.Generator] | NoiseSource

LOUD = 4.0
"""Noise, in units of the normalised data, above which features that are scaled down with it are
lost."""

_MODES = 2
"""Stack frames of the two decorators that leave inference mode and disable gradients."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """Samples of a model, and the noise that determines them.

    Attributes:
        x: `[batch, tokens, features]`, normalised.
        codec: codec of `x`.
        guidance: bound guides.
        noise: source of all random numbers; it holds their values if it records.
        particles: whether the samples were resampled by their weights.

    Example:
        >>> from pgdiff import Sampling, Tokens, TrajectoryDiffusion
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> model = TrajectoryDiffusion.from_episodes(episodes, Tokens(horizon=4))
        >>> inpainting = model.inpaint(episodes.observations[:2])
        >>> model.sample(2, Sampling(steps=2), inpainting=inpainting).log_weight.tolist()
        [0.0, 0.0]
    """

    x: Signal
    codec: Codec
    guidance: tuple[Guidance, ...] = ()
    noise: NoiseSource
    particles: bool = False

    @cached_property
    def segment(self) -> Segment:
        """Samples as a segment in raw units."""
        return self.codec.decode(self.x)

    @cached_property
    def objective(self) -> Float[Tensor, " batch"]:
        """Sum of the guides' objectives of each sample; NaN without guides."""
        return score(self.guidance, self.x, groups=self.noise.groups)

    @property
    def log_weight(self) -> Float[Tensor, " batch"] | None:
        """Logarithm of the weight of each sample under the guided distribution.

        0 for particles, which follow this distribution already, and for samples without guides.
        None for samples that were moved by gradients, whose weights are unknown. For guides of
        scale 0 the sum of their objectives.
        """
        if self.particles or not self.guidance:
            return self.x.new_zeros(len(self.x))
        return None if any(guide.scale > 0 for guide in self.guidance) else self.objective

    @property
    def report(self) -> dict[str, Any]:
        """Statistics of the sampling: number of groups, and effective sample sizes if known."""
        statistics: dict[str, Any] = {"groups": self.noise.groups}
        if self.log_weight is not None:
            weights = self.log_weight.reshape(self.noise.groups, -1).softmax(dim=1)
            statistics["effective_sample_size"] = (1 / weights.square().sum(dim=1)).tolist()
        return statistics


@register("learner", "trajectory_diffusion")
class TrajectoryDiffusion(Pretrained):
    """A diffusion model of trajectory segments; a `Learner` for `Trainer`.

    Level schedule, solver and guides are chosen at sampling time, with one trained model.

    Args:
        codec: codec between raw experience and tokens.
        denoiser: configuration of the network.
        process: noise schedule, prediction, level distribution and loss weight; the cosine process
            if None.
        conditions: conditions of samples, such as a return, a goal or a class.
        distilled: whether x0_hat is a consistency function, which a consistency solver needs.

    Example:
        >>> from pgdiff import Sampling, Tokens, TrajectoryDiffusion
        >>> from pgdiff.testing import example_episodes
        >>> episodes = example_episodes()
        >>> model = TrajectoryDiffusion.from_episodes(episodes, Tokens(horizon=8, stride=2))
        >>> samples = model.sample(
        ...     3, Sampling(steps=4), inpainting=model.inpaint(episodes.observations[:3]), seed=0
        ... )
        >>> samples.x.shape, samples.segment.observations.shape
        (torch.Size([3, 8, 4]), torch.Size([3, 8, 4]))
    """

    def __init__(
        self,
        *,
        codec: Codec,
        denoiser: DenoiserConfig,
        process: DiffusionProcess | None = None,
        conditions: Conditioning | None = None,
        distilled: bool = False,
    ) -> None:
        super().__init__()
        self.process = check_part(
            "process", DiffusionProcess() if process is None else process, DiffusionProcess
        )
        check_part("codec", codec, Codec)
        if hasattr(denoiser, "check_tokens"):
            denoiser.check_tokens(codec.tokens)
        self.codec = codec
        self.denoiser = denoiser
        self._prediction: Prediction = self.process.prediction.of_features(codec.feature_factor())
        self.distilled = distilled
        self.conditions = check_part(
            "conditions", Conditioning() if conditions is None else conditions, Conditioning
        ).for_codec(codec)
        missing = set(codec.required_conditions) - set(self.conditions.names)
        if missing:
            raise PgdiffError(
                f"`conditions` must contain {sorted(missing)} with a {type(codec).__name__}, whose "
                f"tokens cannot hold given observations. Got {list(self.conditions.names)}."
            )
        self.network = denoiser.build(
            DenoiserSpec(
                features=codec.features,
                positions=codec.positions,
                context=self.conditions.shapes,
                clean_estimate=partial(
                    _to_x0,
                    noise_schedule=self.process.noise_schedule,
                    prediction=self._prediction,
                ),
            )
        )
        self._check_loud()

    @classmethod
    def from_episodes(
        cls,
        episodes: Episodes,
        tokens: Tokens,
        *,
        process: DiffusionProcess | None = None,
        denoiser: DenoiserConfig | None = None,
        inpainting: InpaintingPatterns | None = None,
        conditions: Conditioning | Sequence[Conditioner] = (),
        seed: int = 0,
    ) -> "TrajectoryDiffusion":
        """Return a new model whose codec is fitted to recorded experience.

        Args:
            episodes: recorded experience.
            tokens: number, stride and fields of the tokens.
            process: diffusion process; the cosine process if None.
            denoiser: configuration of the network; a transformer of width 128 and depth 3 if None.
            inpainting: patterns of given features in training; the first observation if None.
            conditions: conditions of samples; missing statistics are fitted.
            seed: seed of the first weights.
        """
        check_part("tokens", tokens, Tokens)
        if inpainting is not None:
            check_part("inpainting", inpainting, InpaintingPatterns)
        if not isinstance(conditions, Conditioning):
            conditions = Conditioning(conditioners=conditions)
        with seeded_torch(seed=seed):
            return cls(
                codec=tokens.fit(episodes, inpainting=inpainting),
                denoiser=TransformerConfig() if denoiser is None else denoiser,
                process=process,
                conditions=conditions.fit(episodes),
            )

    def with_horizon(self, horizon: int) -> "TrajectoryDiffusion":
        """Return the model for this number of tokens: itself, or a copy with its present weights.

        Raises:
            PgdiffError: more tokens than in training, or fewer for a model that is not causal.
        """
        return self if self.checked_horizon(horizon) == self.codec.tokens else self.resized(horizon)

    def resized(self, horizon: int) -> "TrajectoryDiffusion":
        """Return a copy for any number of tokens, also one that differs from training."""
        with seeded_torch(seed=0):
            model = TrajectoryDiffusion(
                codec=self.codec.with_tokens(horizon),
                denoiser=self.denoiser,
                process=self.process,
                conditions=self.conditions,
                distilled=self.distilled,
            )
        model.load_state_dict(self.state_dict())
        return model.to(self.device).train(self.training)

    # ---------------------------------------------------------------------------------- learning

    def dataset(self, episodes: Episodes) -> Any:
        """Return the codec's segments of a recording, with the values of the conditions."""
        segments = self.codec.dataset(episodes)
        conditioners = self.conditions.conditioners
        return ConditionedDataset(segments, conditioners) if conditioners else segments

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the diffusion loss of a batch of segments; all noise comes from `generator`."""
        total, count = self.loss_terms(batch, generator)
        return {"diffusion": total / count.clamp(min=1.0)}

    def loss_terms(
        self, batch: Any, generator: torch.Generator, *, rows: slice | None = None, total: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the squared errors of a batch and the number of features that count.

        Several processes that share a batch draw the same noise, that of the whole batch, and each
        takes its rows: their sums and counts add up to those of the whole batch.

        Args:
            batch: segments as tensors; with `rows`, those rows of a larger batch.
            generator: source of all noise, in the same state in every process.
            rows: rows of the larger batch; None for all.
            total: number of rows of the larger batch, with `rows`.
        """
        x0 = self.codec.encode(batch)
        count, tokens, features = x0.shape
        whole, rows = (count, slice(None)) if rows is None else (total, rows)
        level = self.process.level_distribution.draw(
            whole, tokens, noise_schedule=self.process.noise_schedule, generator=generator
        )[rows]
        epsilon = torch.randn(
            (whole, tokens, features), generator=generator, device=generator.device
        )[rows]
        given = self.codec.draw_inpainting(whole, generator)
        context = None
        if self.conditions.conditioners:
            context = self.conditions.drop(
                self.conditions.of_batch(batch), generator=generator, rows=rows, total=whole
            )
        return diffusion_loss_terms(
            self._network(context),
            x0,
            level,
            epsilon,
            noise_schedule=self.process.noise_schedule,
            prediction=self._prediction,
            given=torch.zeros_like(x0, dtype=torch.bool) if given is None else given[rows],
            valid=self.codec.valid(batch),
            loss_weight=self.process.loss_weight,
        )

    # ---------------------------------------------------------------------------------- sampling

    @torch.inference_mode(False)
    @torch.no_grad()
    def sample(
        self,
        batch: int,
        sampling: Sampling | None = None,
        *,
        guides: Sequence[Guide | Guidance] = (),
        inpainting: Inpainting | None = None,
        measurement: Measurement | None = None,
        condition: Condition | Mapping[str, Any] | None = None,
        seed: Seed = 0,
        start: Signal | None = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Samples:
        """Sample segments.

        Args:
            batch: number of segments.
            sampling: settings of the sampling; `Sampling()` if None.
            guides: objectives whose gradients move the samples, in raw units, or bound to the model
                by `pgdiff.guides.bind`.
            inpainting: given features, such as the result of `inpaint`.
            measurement: features that were measured with noise, which guides do not move.
            condition: raw values `[batch or 1, ...]` of the model's conditions by name; None for no
                condition.
            seed: seed of all noise; or a seed or generator for each of several groups, which share
                the batch equally; or a `NoiseSource`.
            start: noisy segments at the levels of the level matrix's first row; noise if None.
            callback: called after every row.

        Raises:
            PgdiffError: the condition does not fit the model, or a setting is out of range.
        """
        batch = check_positive_int("batch", batch)
        sampling = Sampling() if sampling is None else check_part("sampling", sampling, Sampling)
        for name, part, kind in (
            ("inpainting", inpainting, Inpainting),
            ("measurement", measurement, Measurement),
            ("start", start, Tensor),
        ):
            if part is not None:
                check_part(name, part, kind)
        noise = self._noise(seed, batch, sampling)
        if not isinstance(guides, Sequence):
            raise PgdiffError(
                f"`guides` must be a sequence of guides. Got a {type(guides).__name__}. "
                "Write [guide] for a single one."
            )
        guidance = tuple(g if isinstance(g, Guidance) else bind(g, self) for g in guides)
        tokens = self.checked_horizon(sampling.horizon)
        matrix = sampling.levels(self.process.noise_schedule, tokens=tokens)
        inpainting, measurement = cut(inpainting, tokens), cut(measurement, tokens)
        self._warn_of_given((inpainting, measurement), tokens)
        self._warn_of_levels(sampling, matrix, measurement)
        _warn_of_futures(sampling, guidance)
        given = inpainting is not None and bool(inpainting.tokens[:, 0].all())
        prepared = self._prepare(
            self._conditional(batch, sampling, condition, matrix, given),
            sampling,
            levels=matrix,
            shape=(batch, tokens, self.codec.features),
            groups=noise.groups,
            inpainting=inpainting,
            measurement=measurement,
            guidance=guidance,
            start=start,
            callback=callback,
        )
        return Samples(
            x=run(prepared, noise),
            codec=self.codec,
            guidance=guidance,
            noise=noise,
            particles=sampling.particles is not None,
        )

    def _prepare(
        self, estimate: Callable[[Signal, Level], Signal], sampling: Sampling, **parts: Any
    ) -> PreparedSampling:
        """Return the prepared sampling of a clean estimate with the settings of the model.

        Args:
            estimate: clean estimate of noisy tokens.
            sampling: settings of the sampling.
            parts: other arguments of `pgdiff.diffusion.prepare`.
        """
        weighting, variance = sampling.classifier_free, self.codec.variance()
        return prepare(
            estimate,
            noise_schedule=self.process.noise_schedule,
            solver=sampling.solver,
            trust_region=sampling.trust_region,
            particles=sampling.particles,
            clip=self.codec.clean_limits() if sampling.clip == "auto" else sampling.clip,
            distilled=self.distilled,
            history=sampling.history,
            monte_carlo=sampling.monte_carlo,
            stabilization=sampling.stabilization,
            variance=1.0 if variance is None else variance.to(self.device),
            # Rescaling depends on all tokens.
            causal=self.causal and (weighting is None or weighting.rescale == 0),
            dtype=self._dtype,
            device=self.device,
            **parts,
        )

    def inpaint(
        self,
        observation: Any,
        goal: Any = None,
        arrival: Int[Tensor, " batch"] | None = None,
    ) -> Inpainting:
        """Return the features that are given by observations and optional goals.

        Warns if the model was not trained with this pattern.

        Args:
            observation: `[batch, observation]`, observations at the first token, in raw units.
            goal: `[batch, goal]`, goal features at the token of arrival, in raw units.
            arrival: `[batch]`, token of arrival, from 1 on; the last if None.
        """
        observation = as_float32(observation, device=self.device)
        if goal is not None:
            goal = as_float32(goal, device=self.device)
        given = self.codec.inpaint(observation, goal, arrival)
        name = "start" if goal is None else "start_goal" if arrival is None else "start_arrival"
        # Training with any arrival includes the latest one.
        arrives = name == "start_goal" and "start_arrival" in self.patterns
        if not arrives and not self.codec.required_conditions:
            self._warn_of_pattern(name)
        return given

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of the in-painting patterns of training; none for a codec without in-painting."""
        if isinstance(self.codec, AffineCodec):
            return tuple(self.codec.inpainting.patterns)
        return ()

    def level_matrix(self, sampling: Sampling | None = None) -> LevelMatrix:
        """Return the level matrix of a sampling, `[rows, tokens]`."""
        sampling = Sampling() if sampling is None else sampling
        tokens = self.checked_horizon(sampling.horizon)
        return sampling.levels(self.process.noise_schedule, tokens=tokens)

    def checked_horizon(self, horizon: int | None) -> int:
        """Return the number of tokens of a segment; the model's if None.

        Raises:
            PgdiffError: more tokens than in training, or fewer for a model that is not causal.
        """
        most = self.codec.tokens
        if horizon is None or horizon == most:
            return most
        horizon = check_positive_int("horizon", horizon)
        if horizon > most:
            raise PgdiffError(
                f"`horizon` must be at most the {most} tokens that the model was trained on. "
                f"Got {horizon}. Use pgdiff.rollout for longer trajectories."
            )
        if not self.causal:
            raise PgdiffError(
                f"`horizon` must be the {most} tokens that the model was trained on, unless its "
                f"attention is 'causal' or 'window'. Got {horizon}."
            )
        return horizon

    @property
    def causal(self) -> bool:
        """True if the denoiser is causal and so can sample fewer tokens than its horizon."""
        return bool(getattr(self.network, "causal", False))

    def denoise(self, x: Signal, level: Level, condition: Condition | None = None) -> Signal:
        """Return the clean estimate x0_hat of noisy tokens, both normalised.

        Args:
            x: noisy tokens.
            level: noise level of each token; a batch of 1 stands for all rows.
            condition: raw values of the conditions; None for none.

        Raises:
            PgdiffError: the condition does not fit the model.
        """
        self.check_trained_condition(given=condition is not None)
        return self._estimate(x, level, self.conditions.context(condition, batch=len(x), like=x))

    def check_trained_condition(self, *, given: bool, weight: float = 1.0) -> None:
        """Raise if an estimate with, or without, a condition was never trained.

        Args:
            given: whether a condition is given.
            weight: weight of the conditional against the unconditional estimate.

        Raises:
            PgdiffError: training never, or always, dropped the condition, and the estimate needs
                the other case.
        """
        if not self.conditions.names:
            return
        dropout = self.conditions.dropout
        if dropout == 0 and not given:
            raise PgdiffError(
                f"`condition` must give {list(self.conditions.names)} to a model that was trained "
                "with a dropout of 0, never without its condition. Got None. Train it with a "
                "dropout of 0.1 to sample without one."
            )
        if dropout == 0 and weight != 1:
            raise PgdiffError(
                "`classifier_free` must have weight 1 for a model that was trained with a dropout "
                f"of 0, never without its condition. Got weight {weight:g}. Train it with a "
                "dropout of 0.1 for other weights."
            )
        if dropout == 1 and given and weight != 0:
            raise PgdiffError(
                "`condition` must be None for a model that was trained with a dropout of 1, never "
                "with its condition. Train it with a dropout of 0.1."
            )

    @torch.inference_mode(False)
    @torch.no_grad()
    def log_likelihood(
        self,
        batch: Any,
        *,
        pattern: str = "start",
        condition: Condition | None = None,
        method: Literal["exact", "hutchinson"] = "exact",
        probes: int = 16,
        steps: int = 50,
        noise_min: float = 1e-3,
        seed: int = 0,
    ) -> LogLikelihood:
        """Return the log-density of recorded segments under the model, in raw units.

        Args:
            batch: batch of segments of `dataset`, as tensors.
            pattern: in-painting pattern of the given features; the density is that of the others.
            condition: raw values of the conditions; None for none.
            method: "exact" trace or "hutchinson"; see `pgdiff.diffusion.log_likelihood`.
            probes: number of random directions of "hutchinson"; more lower the standard error.
            steps: number of Runge-Kutta steps.
            noise_min: ratio sigma / alpha that counts as clean, the finest resolved detail in
                normalised units.
            seed: seed of the probes.

        Raises:
            PgdiffError: see `pgdiff.diffusion.log_likelihood`; or the pattern or the condition does
                not fit the model.
        """
        x = self.codec.encode(batch).to(self.device)
        mask = self.codec.pattern(pattern).to(self.device)
        self._warn_of_pattern(pattern, inside=_MODES)
        if not self.codec.valid(batch).all():
            raise PgdiffError("`batch` must hold whole segments. Got padded tokens.")
        self.check_trained_condition(given=condition is not None)
        context = self.conditions.context(condition, batch=len(x), like=x)
        density = log_likelihood(
            lambda x, level: self._estimate(x, level, context),
            x,
            noise_schedule=self.process.noise_schedule,
            method=method,
            probes=probes,
            generator=torch.Generator(device=self.device).manual_seed(check_seed("seed", seed)),
            steps=steps,
            noise_min=noise_min,
            inpainting=Inpainting(mask[None], x),
        )
        slope = self.codec.log_slope(batch, like=density.value)
        value = density.value + (slope * ~mask).sum(dim=(1, 2))
        return LogLikelihood(value, density.standard_error)

    # ------------------------------------------------------------------------------------ network

    @property
    def _dtype(self) -> torch.dtype:
        """Type of samples, at least float32, since half precision would round conditions."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def _noise(self, seed: Seed, batch: int, sampling: Sampling) -> NoiseSource:
        if isinstance(seed, NoiseSource):
            if seed.batch != batch:
                raise PgdiffError(
                    f"`seed` must be a NoiseSource for the batch of {batch}. "
                    f"Got one for a batch of {seed.batch}."
                )
            return seed
        if isinstance(seed, Sequence) and seed and isinstance(seed[0], torch.Generator):
            check_each("seed", seed, torch.Generator)
            return NoiseSource(seed, batch=batch)  # type: ignore[arg-type]
        if not isinstance(seed, Iterable):
            seed = check_seed("seed", seed)
        device = sampling.noise_device or self.device
        return NoiseSource.from_seeds(seed, batch=batch, device=device)  # type: ignore[arg-type]

    def _conditional(
        self,
        batch: int,
        sampling: Sampling,
        condition: Condition | Mapping[str, Any] | None,
        matrix: LevelMatrix,
        given: bool,
    ) -> Callable[[Signal, Level], Signal]:
        """Return the clean estimate under a condition, as a function of tokens and levels."""
        if condition is not None and not isinstance(condition, Condition):
            condition = Condition(values=check_part("condition", condition, Condition, Mapping))
        weighting = sampling.classifier_free
        if weighting is not None and condition is None:
            raise PgdiffError("`condition` must be given with `classifier_free`. Got None.")
        weighting = ClassifierFree() if weighting is None else weighting
        self.check_trained_condition(given=condition is not None, weight=weighting.weight)
        like = torch.zeros(0, dtype=self._dtype, device=self.device)
        context = self.conditions.context(condition, batch=batch, like=like)
        if context is not None:
            context = context.map(recordable)
        if weighting.names is not None:
            for name in weighting.names:
                check_in("classifier_free.names", name, tuple(self.conditions.shapes))
        estimate: Callable[..., Tensor] = self._estimate
        differ = matrix.ndim > 0 and bool((matrix != matrix[..., :1]).any())
        cached = sampling.kv_cache and self.causal and hasattr(self.network, "new_cache")
        if cached and (differ or given):
            estimate = partial(estimate, network=CachedCalls(cast(CausalNetwork, self.network)))

        def denoise(x: Signal, level: Level) -> Signal:
            if context is None:
                return estimate(x, level, None)
            # Views of a history and futures repeat the trajectories in further rows.
            return weighting.estimate(estimate, x, level, context.tile(len(x) // context.batch))

        return denoise

    def _estimate(
        self,
        x: Signal,
        level: Level,
        context: Context | None,
        *,
        network: CachedCalls | None = None,
    ) -> Signal:
        return clean_estimate(
            self._network(context, network),
            x,
            level,
            noise_schedule=self.process.noise_schedule,
            prediction=self._prediction,
        )

    def _network(
        self, context: Context | None, network: CachedCalls | None = None
    ) -> Callable[[Signal, Level], Signal]:
        """Return the network as a function of noisy tokens and levels.

        The function accepts and returns tokens of any type. A network in half precision, or under
        autocast, computes in its type; levels are not rounded.
        """
        called = self.network if network is None else network
        weight = next(self.network.parameters(), None)

        def call(x: Signal, level: Level) -> Signal:
            kind = x.dtype if weight is None else weight.dtype
            contexts = () if context is None else (context.to(kind),)
            output: Signal = called(x.to(kind), level, *contexts)
            return output.to(x.dtype)

        return call

    # ----------------------------------------------------------------------------------- warnings

    def _check_loud(self) -> None:
        noisiest = torch.ones((), dtype=torch.float64)
        prediction, noise_schedule = self.process.prediction, self.process.noise_schedule
        scaled = type(prediction).scale_input is not Prediction.scale_input
        loud = float(noise_schedule.sigma(noisiest)) > LOUD
        if self.codec.partial_inpainting and scaled and loud:
            raise PgdiffError(
                "`prediction` must not scale its input if tokens are given in part and the noise "
                "is large, because the given features would be lost. Got "
                f"{prediction!r} and {noise_schedule!r}. Use a schedule that preserves variance, "
                "or give whole tokens."
            )

    def _warn_of_pattern(self, name: str, *, inside: int = 0) -> None:
        if name not in self.patterns:
            warnings.warn(
                f"This model was trained with the in-painting patterns {list(self.patterns)}, not "
                f"with '{name}'; it may ignore the given features.",
                stacklevel=3 + inside,
            )

    def _warn_of_given(self, parts: Sequence[Inpainting | Measurement | None], tokens: int) -> None:
        """Warn if training never gave these features; `inpaint` warns of its patterns."""
        masks = [part.mask.cpu() for part in parts if part is not None]
        none = torch.zeros(1, tokens, self.codec.features, dtype=torch.bool)
        if any(mask.shape[1:] != none.shape[1:] for mask in masks):
            return  # the sampler raises an error
        given = reduce(torch.logical_or, masks, none)
        if self.codec.covers(given, per_token=self.process.level_distribution.per_token):
            return
        trained = f"This model was trained with the in-painting patterns {list(self.patterns)}, "
        warnings.warn(
            trained + "not with the features that are given here; it may ignore them."
            if masks
            else trained + "never without given features; samples from noise alone may be far off. "
            "Pass `inpainting`, or train it with 'none' among its patterns.",
            stacklevel=3 + _MODES,
        )

    def _warn_of_levels(
        self, sampling: Sampling, matrix: LevelMatrix, measurement: Measurement | None
    ) -> None:
        distribution = self.process.level_distribution
        differ = matrix.ndim > 0 and bool((matrix != matrix[..., :1]).any())
        apart = differ or measurement is not None or sampling.history is not None
        if (apart or sampling.stabilization > 0) and not distribution.per_token:
            warnings.warn(
                f"This model was trained with {distribution!r}, one level for the whole sequence; "
                "it was not trained with different levels of the tokens.",
                stacklevel=3 + _MODES,
            )


def _to_x0(
    x: Signal,
    level: Level,
    output: Signal,
    *,
    noise_schedule: NoiseSchedule,
    prediction: Prediction,
) -> Signal:
    """Return the clean estimate from the network's input, which is scaled, and output."""
    alpha, sigma = factors(noise_schedule, level)
    scale = prediction.scale_input(torch.ones_like(x), alpha, sigma)
    return prediction.to_x0(output, x / scale, alpha, sigma)


def as_float32(values: Any, *, device: torch.device) -> Tensor:
    """Return raw values as a float32 tensor; read-only arrays, as in `Episodes`, are copied."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()
    return torch.as_tensor(values, dtype=torch.float32, device=device)


def _warn_of_futures(sampling: Sampling, guidance: Sequence[Guidance]) -> None:
    active = [guide for guide in guidance if guide.moves_samples]
    through = any(guide.gradient_at == "denoiser" for guide in active)
    if sampling.monte_carlo is not None and active and not through:
        warnings.warn(
            "`monte_carlo` lets late tokens move early ones by gradients through the denoiser, but "
            "no guide has gradient_at='denoiser', so that each token is moved only by the gradient "
            "at itself. Set gradient_at='denoiser' for one of them.",
            stacklevel=3 + _MODES,
        )
