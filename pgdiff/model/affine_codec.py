"""The affine codec: every feature of a token is an affine function of a raw number."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdiff.core.registry import register
from pgdiff.core.settings import part
from pgdiff.core.validation import PgdiffError, check_in
from pgdiff.data import Episodes, LimitsNormalizer, Normalizer, SegmentDataset
from pgdiff.data.dict_observations import ObservationLayout, resolve_goal_features
from pgdiff.data.fields import ActionField, token_field
from pgdiff.diffusion import Inpainting
from pgdiff.model.clipping import checked_range, limits_of, on_bounds
from pgdiff.model.codec import Codec, Limits, Signal
from pgdiff.model.inpainting import InpaintingPatterns, PatternMasks
from pgdiff.trajectory import Layout, Segment, SegmentSpec

FAR_OF_LIMITS, FAR_OF_DEVIATIONS = 3.0, 10.0
"""Distance from the center beyond which an observation is far outside the data, in half-ranges with
the limits normaliser and in standard deviations with others."""

FAR_OF_CONSTANT, ROUNDING = 1e-3, 1e-5
"""Distance from the value of a constant feature beyond which an observation is far outside the
data: in normalised units, and as a share of the value."""


@register("codec", "affine")
@dataclass(frozen=True, kw_only=True, eq=False)
class AffineCodec(Codec):
    """A codec of normalised fields of a recording, such as observations and actions.

    Attributes:
        layout: fields, number and stride of the tokens.
        normalizer: affine map of each feature to the units of the network.
        inpainting: patterns of given features that training draws from.
        observation_layout: order of the fields of Dict observations; None for flat ones.
        action_range: smallest and largest action of the recording, to which samples are clipped;
            None for no limits.

    Example:
        >>> from pgdiff import TrajectoryDiffusion, Tokens
        >>> from pgdiff.testing import example_episodes
        >>> codec = TrajectoryDiffusion.from_episodes(example_episodes(), Tokens(horizon=8)).codec
        >>> codec.tokens, codec.features, codec.spec.observation_size
        (8, 4, 4)
    """

    layout: Layout
    normalizer: Normalizer
    inpainting: InpaintingPatterns = field(
        default_factory=InpaintingPatterns, metadata=part("inpainting")
    )
    observation_layout: ObservationLayout | None = None
    action_range: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        if self.normalizer.features != self.layout.features:
            raise PgdiffError(
                f"`normalizer` must have the {self.layout.features} features of the layout. "
                f"Got {self.normalizer.features}."
            )
        object.__setattr__(self, "action_range", checked_range(self.action_range, self.layout))
        self.masks  # noqa: B018 (raises the clearest error if features do not fit)

    # ------------------------------------------------------------------------------------- tokens

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.layout.horizon

    @property
    def features(self) -> int:
        """Number of features of a token."""
        return self.layout.features

    @property
    def spec(self) -> SegmentSpec:
        """Fields, sizes and way-points of decoded segments, with a way-point for every token."""
        return self.layout.spec

    def with_tokens(self, tokens: int) -> "AffineCodec":
        """Return the codec for another number of tokens."""
        return replace(self, layout=replace(self.layout, horizon=tokens))

    def dataset(self, episodes: Episodes) -> SegmentDataset:
        """Return the segments of a recording; terminated episodes are padded with their end."""
        parts = [token_field(name) for name in self.layout.slices]
        return SegmentDataset(
            episodes,
            self.layout.horizon,
            self.layout.stride,
            fields=tuple(self.layout.slices),
            padding="terminal" if any(field.extends_past_end for field in parts) else "none",
        )

    def encode(self, batch: Any) -> Signal:
        """Return the normalised fields of a batch, concatenated."""
        return self.normalizer.normalize(self._raw(batch))

    def decode(self, x: Signal) -> Segment:
        """Return normalised tokens as a segment in raw units; differentiable."""
        return self.layout.segment(self.normalizer.unnormalize(x))

    def decode_plan(self, x: Signal) -> Segment:
        """Return `decode(x)`, with actions that exceed `action_range` by rounding put back."""
        return on_bounds(self.decode(x), self.action_range)

    def _raw(self, batch: Any) -> Signal:
        fields = [getattr(batch, name) for name, _ in self.layout.fields]
        return torch.cat([f[..., None] if f.ndim == 2 else f for f in fields], dim=-1)

    def as_batch(
        self,
        observations: Float[np.ndarray, "batch tokens observation"],
        actions: Float[np.ndarray, "batch steps action"] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> Any:
        """Return plans as a batch of segments for `encode`.

        Args:
            observations: way-points, in raw units.
            actions: action of every environment step, for a model that generates actions.
            device: device of the batch.

        Raises:
            PgdiffError: the tokens have fields that plans do not store, such as rewards.
        """
        waypoints = torch.as_tensor(observations)
        steps = None if actions is None else torch.as_tensor(actions)
        plans = {
            name: token_field(name).from_plan(waypoints, steps, self.spec.stride)
            for name in self.layout.slices
        }
        fields = {name: value for name, value in plans.items() if value is not None}
        mask = torch.ones(observations.shape[:2], dtype=torch.bool)
        moved = {name: value.to(device) for name, value in {**fields, "mask": mask}.items()}
        return SimpleNamespace(**moved)

    # ------------------------------------------------------------------------------- in-painting

    @property
    def goal_features(self) -> tuple[int, ...]:
        """Indices of an observation's features that a goal fixes."""
        return resolve_goal_features(self.inpainting.goal_features, self.observation_layout)

    @property
    def positions(self) -> tuple[int, ...]:
        """Indices of the features that a goal fixes."""
        first = self.layout.slices["observations"].start
        size = self.spec.observation_size
        return tuple(first + index for index in self.goal_features if index < size)

    def encode_positions(
        self, positions: Float[Tensor, "*batch position"]
    ) -> Float[Tensor, "*batch position"]:
        """Return positions in raw units as the values of the features `positions`."""
        tokens = positions.new_zeros(*positions.shape[:-1], self.features)
        tokens[..., self.positions] = positions
        return self.normalizer.normalize(tokens)[..., self.positions]

    @cached_property
    def masks(self) -> PatternMasks:
        """The masks of the in-painting patterns."""
        return PatternMasks(
            self.inpainting.patterns,
            layout=self.layout,
            goal_features=self.goal_features,
            zero_at_goal=self.inpainting.zero_at_goal,
        )

    def pattern(self, name: str) -> Bool[Tensor, "tokens features"]:
        """Return the mask of a pattern, with the latest arrival."""
        return self.masks.masks(name)[-1]

    @property
    def partial_inpainting(self) -> bool:
        """True if training gives some, but not all, features of a token."""
        return self.masks.partial

    def covers(self, given: Bool[Tensor, "#batch tokens features"], *, per_token: bool) -> bool:
        """Return whether training has given features with this mask; see `Codec.covers`."""
        return self.masks.cover(given, per_token=per_token)

    def draw_inpainting(
        self, count: int, generator: torch.Generator
    ) -> Bool[Tensor, "batch tokens features"]:
        """Return the mask of a random pattern for each training segment."""
        choice = self.masks.draw(count, generator)
        return self.masks.all_masks.to(choice.device)[choice]

    def inpaint(
        self,
        observation: Float[Tensor, "batch observation"],
        goal: Float[Tensor, "batch goal"] | None = None,
        arrival: Int[Tensor, " batch"] | None = None,
    ) -> Inpainting:
        """Return the features that are given by an observation and an optional goal.

        Args:
            observation: observation at the first token, in raw units.
            goal: goal features at the token of arrival, in raw units.
            arrival: token of arrival of each segment, from 1 on; the last if None.
        """
        _, raw = self.masks.fill(observation, goal, arrival)
        return Inpainting(raw.mask, self.normalizer.normalize(raw.values))

    def continue_from(self, past: Signal, tokens: int) -> Inpainting:
        """Return normalised past tokens as the given beginning of a segment.

        Args:
            past: first tokens of the segment.
            tokens: number of tokens of the segment.
        """
        mask = torch.zeros(1, tokens, self.features, dtype=torch.bool, device=past.device)
        mask[:, : past.shape[1]] = True
        values = past.new_zeros(len(past), tokens, self.features)
        values[:, : past.shape[1]] = past
        zero = self.normalizer.normalize(torch.zeros(self.features, device=past.device))
        for name, where in self.layout.slices.items():
            if token_field(name).given_at_start and name != "observations":
                values[:, 0, where] = zero[where]  # as in the first token of a recorded segment
        return Inpainting(mask, values)

    # ------------------------------------------------------------------- properties of the tokens

    def clean_limits(self) -> Limits | None:
        """Return the range of actions, and of all features with the limits normaliser."""
        return limits_of(self.layout, self.normalizer, self.action_range)

    def feature_factor(self) -> Float[Tensor, " features"]:
        """Return the factor of each normalised feature (`Tokens.field_scales`)."""
        return self.normalizer.factor

    def variance(self) -> Float[Tensor, " features"]:
        """Return the variance of each normalised feature over the training data."""
        return self.normalizer.normalized_variance

    def log_slope(self, batch: Any, *, like: Tensor | None = None) -> Signal:
        """Return the log-derivative of each normalised feature with respect to the raw feature."""
        raw = self._raw(batch)
        return self.normalizer.log_slope(raw if like is None else raw.to(like))

    def feature_mask(self, fields: Sequence[str]) -> Bool[Tensor, " features"]:
        """Return the mask of the features of these fields.

        "actions" stands for another field of actions in models that have it instead.
        """
        mask = torch.zeros(self.features, dtype=torch.bool)
        slices = self.layout.slices
        for name in fields:
            if name == "actions" and name not in slices:
                name = next((n for n in slices if isinstance(token_field(n), ActionField)), name)
            mask[slices[check_in("fields", name, slices)]] = True
        return mask

    def observation_scale(self) -> Float[np.ndarray, " observation"]:
        """Return the raw size of one normalised unit of each feature of an observation."""
        where = self.layout.slices["observations"]
        return (self.normalizer.scale / self.normalizer.factor)[where].cpu().numpy()

    def check_observation(
        self, observations: Float[np.ndarray, "environments observation"]
    ) -> str | None:
        """Return a warning about the observation farthest outside the training data, or None."""
        where, normalizer = self.layout.slices["observations"], self.normalizer
        center, scale, constant = (
            values[where].cpu().numpy()
            for values in (normalizer.center, normalizer.scale, normalizer.constant)
        )
        limits = isinstance(normalizer, LimitsNormalizer)
        far = FAR_OF_LIMITS if limits else FAR_OF_DEVIATIONS
        # In units of the distance beyond which a value is far outside.
        least = np.maximum(FAR_OF_CONSTANT, ROUNDING * np.abs(center))
        size = np.abs(observations - center) / np.where(constant, least, far * scale)
        row, feature = np.unravel_index(size.argmax(), size.shape)
        if size[row, feature] <= 1:
            return None
        low, high = (center + sign * scale for sign in (-1, 1))
        if constant[feature]:
            data = f"the data have {center[feature]:.4g} throughout"
        else:
            data = "the data lie" if limits else "the middle of the data lies"
            data += f" in [{low[feature]:.4g}, {high[feature]:.4g}]"
        return (
            f"Feature {feature} of `observation` is far outside the training data of the model: "
            f"{float(observations[row, feature]):.4g} for environment {row}, where {data}. "
            "Plans from there are unreliable."
        )
