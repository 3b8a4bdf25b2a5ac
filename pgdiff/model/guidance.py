"""The guide protocol, and the binding of guides in raw units to a model's normalised samples."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.diffusion import Guidance
from pgdiff.diffusion.guidance.guidance import check_groups, checked_objective
from pgdiff.diffusion.guidance.rules import Place
from pgdiff.model.codec import Codec
from pgdiff.trajectory import Segment

Level = Float[Tensor, "#batch tokens"]


@runtime_checkable
class Coded(Protocol):
    """A model whose tokens a codec decodes."""

    @property
    def codec(self) -> Codec:
        """Codec of the samples."""


@runtime_checkable
class Guide(Protocol):
    """An objective of segments in raw units; it does not depend on diffusion.

    Attributes:
        name: name of the guide in error messages and plots.
        gradient_at: where the gradient is taken: "x0", at clean estimates; "x", at noisy samples,
            for objectives that were trained on noisy samples; "denoiser", at clean estimates with
            respect to the noisy sample.
        scale: strength of the gradient; larger values move samples further. 0 only ranks
            candidates.

    Guides that inherit from `pgdiff.guides.GradientGuide` have further settings; others have the
    default settings. A guide may have a method `check_model(model)` that raises if a model does not
    fit, and a method `for_model(model)` that returns the guide with settings from the model.

    A guide with the attribute `differentiable = False` computes its objective in any way, for
    example with NumPy, and may return an array. It may forbid a trajectory by an objective of -inf.
    Its scale must be 0, so that it only ranks candidates, or the sampling must have particles.

    `TokenGuide` describes guides whose objective is a function of normalised tokens.

    Example:
        >>> from pgdiff.guides import Guide
        >>> class Near:
        ...     name, gradient_at, scale = "near", "x0", 1.0
        ...     def objective(self, segment, level):
        ...         return -segment.observations[..., :2].square().sum((1, 2))
        >>> isinstance(Near(), Guide)
        True
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def gradient_at(self) -> Place: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102

    def objective(self, segment: Segment, level: Level) -> Float[Tensor, " batch"]:
        """Return the objective of each segment, higher is better; differentiable in its fields.

        Args:
            segment: segments in raw units.
            level: noise levels of the tokens, 0 if clean.
        """
        ...


@runtime_checkable
class TokenGuide(Protocol):
    """A guide whose objective is a function of normalised tokens, for critics of latent codes.

    All other properties are those of a `Guide`. A guide with both methods is used by its tokens.

    Example:
        >>> from pgdiff.model.guidance import TokenGuide
        >>> class Small:
        ...     name, gradient_at, scale = "small", "x0", 1.0
        ...     def objective_of_tokens(self, x, level, context):
        ...         return -x.square().sum((1, 2))
        >>> isinstance(Small(), TokenGuide)
        True
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def gradient_at(self) -> Place: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102

    def objective_of_tokens(
        self, x: Float[Tensor, "batch tokens features"], level: Level, context: Any
    ) -> Float[Tensor, " batch"]:
        """Return the objective of each trajectory, higher is better; differentiable in `x`.

        Args:
            x: normalised tokens: noisy at the place "x", clean estimates at the others.
            level: noise levels of the tokens, 0 if clean.
            context: context of the trajectories; None without one.
        """
        ...


def is_guide(guide: object) -> bool:
    """Return whether an object is a guide, by its segments or by its tokens."""
    return not isinstance(guide, type) and isinstance(guide, Guide | TokenGuide)


def is_differentiable(guide: object) -> bool:
    """Return whether the objective has a gradient (the optional attribute `differentiable`)."""
    return bool(getattr(guide, "differentiable", True))


@dataclass(frozen=True)
class BoundObjective:
    """A guide's objective as a function of a model's normalised tokens."""

    guide: Guide | TokenGuide
    codec: Codec
    condition: Mapping[str, Tensor] | None = None

    def __call__(self, x: Float[Tensor, "batch tokens features"], level: Level) -> Tensor:
        """Return the objective of each trajectory, without autocast: differences may be small.

        Raises:
            PgdiffError: the guide's precision differs from that of the samples.
        """
        guide = self.guide
        segment = None if isinstance(guide, TokenGuide) else self._segment(x)
        with _no_autocast(x.device.type):
            try:
                if isinstance(guide, TokenGuide):
                    objective = guide.objective_of_tokens(x, level, None)
                else:
                    assert segment is not None
                    objective = guide.objective(segment, level)
            except RuntimeError as error:
                if "dtype" not in str(error):
                    raise
                raise PgdiffError(
                    f"The guide '{guide.name}' must compute in {x.dtype}, the type of the "
                    f"samples. Convert its network with .to({x.dtype}). ({error})"
                ) from error
        if not is_differentiable(guide) and not isinstance(objective, Tensor):
            objective = torch.as_tensor(objective).to(x)
        return objective

    def _segment(self, x: Tensor) -> Segment:
        segment = self.codec.decode(x)
        if not self.condition:
            return segment
        like = segment.observations
        values = {name: value.to(like) for name, value in self.condition.items()}
        return segment.replace(condition=values)


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def needs_goal(guide: Guide) -> bool:
    """Return whether the objective depends on a goal (the optional attribute `needs_goal`)."""
    return bool(getattr(guide, "needs_goal", False))


def bind(
    guide: Guide | TokenGuide,
    model: Coded,
    condition: Mapping[str, Tensor] | None = None,
    *,
    factors: Float[Tensor, " batch"] | None = None,
) -> Guidance:
    """Return a guide as guidance of a model's normalised samples.

    Args:
        guide: guide in raw units.
        model: model of the samples.
        condition: raw values of each trajectory's conditions by name, such as "goal", passed to the
            guide as `Segment.condition`.
        factors: factor of the guide's scale for each trajectory; 1 if None.

    Raises:
        PgdiffError: the object is not a guide, or its `gradient_at` or `scale` is out of range.

    Example:
        >>> from pgdiff import Tokens, TrajectoryDiffusion
        >>> from pgdiff.guides import Goal, bind
        >>> from pgdiff.testing import example_episodes
        >>> model = TrajectoryDiffusion.from_episodes(example_episodes(), Tokens(horizon=8))
        >>> bind(Goal((1.0, 0.0), scale=0.5), model).scale
        0.5
    """
    if not is_guide(guide):
        raise PgdiffError(
            "`guides` must have the attributes name, gradient_at and scale, and a method "
            f"objective or objective_of_tokens. Got a {type(guide).__name__}."
        )
    if hasattr(guide, "check_model"):
        guide.check_model(model)
    if hasattr(guide, "for_model"):
        guide = guide.for_model(model)
    options = guidance_options(guide)
    return Guidance(
        objective=BoundObjective(guide, model.codec, condition),
        gradient_at=guide.gradient_at,
        scale=guide.scale,
        name=guide.name,
        factors=factors,
        mask=feature_weights(guide, model.codec),
        differentiable=is_differentiable(guide),
        **{name: options[name] for name in _OPTIONS if name in options},
    )


@torch.no_grad()
def score(
    guidance: Sequence[Guidance], x: Float[Tensor, "batch tokens features"], *, groups: int = 1
) -> Float[Tensor, " batch"]:
    """Return the weighted sum of the guides' objectives of clean samples; NaN without guides.

    Args:
        guidance: bound guides.
        x: clean samples.
        groups: number of groups of samples, such as the candidates of one environment.

    Raises:
        PgdiffError: an objective is NaN or inf, or no sample of a group has a finite one.
    """
    if not guidance:
        return x.new_full((len(x),), float("nan"))
    level = x.new_zeros(1, x.shape[1])
    total = torch.stack([_weighted(guide, x, level) for guide in guidance]).sum(dim=0)
    check_groups(total, groups=groups, name=" and ".join(f"'{g.name}'" for g in guidance))
    return total


def _weighted(guide: Guidance, x: Tensor, level: Tensor) -> Tensor:
    """Return a guide's objectives times their weight in the score; a weight of 0 ignores -inf."""
    forbids = guide.score_weight >= 0 and not guide.moves_samples
    objective = checked_objective(
        guide.objective(x, level), batch=len(x), name=guide.name, forbids=forbids
    )
    weighted: Tensor = guide.score_weight * objective
    return weighted if guide.score_weight else torch.zeros_like(weighted)


def feature_weights(guide: object, codec: Codec) -> Float[Tensor, "tokens features"] | None:
    """Return the factor of a guide's move for each feature of each token; None for 1 everywhere.

    Raises:
        PgdiffError: `token_weights` does not have one factor for each of the codec's tokens, or the
            tokens do not have a field of `fields`.
    """
    options = guidance_options(guide)
    weights: Sequence[float] | None = options.get("token_weights")
    fields: Sequence[str] | None = options.get("fields")
    if weights is None and fields is None:
        return None
    mask = torch.ones(codec.tokens, codec.features)
    name = getattr(guide, "name", type(guide).__name__)
    if weights is not None:
        if len(weights) != codec.tokens:
            raise PgdiffError(
                f"`token_weights` of the guide '{name}' must be {codec.tokens} factors, one for "
                f"each token. Got {len(weights)}."
            )
        mask *= torch.tensor(weights)[:, None]
    if fields is not None:
        try:
            mask *= codec.feature_mask(fields).to(mask)
        except PgdiffError as error:
            raise PgdiffError(f"{error} (the guide '{name}')") from error
    return mask


_OPTIONS = ("rule", "normalize_gradient", "scale_schedule", "score_weight")


def guidance_options(guide: object) -> Mapping[str, Any]:
    """Return the optional settings of a guide by name, from its attribute `guidance_options`.

    Returns an empty mapping if the guide has no such attribute.
    """
    options: Mapping[str, Any] = getattr(guide, "guidance_options", {})
    return options
