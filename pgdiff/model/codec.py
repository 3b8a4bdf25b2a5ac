"""Codecs: maps between raw experience and the tokens that a diffusion model generates."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdiff.core.validation import PgdiffError
from pgdiff.data import Episodes
from pgdiff.data.dict_observations import ObservationLayout
from pgdiff.diffusion import Inpainting
from pgdiff.trajectory import Segment, SegmentSpec

Signal = Float[Tensor, "batch tokens features"]
Limits = tuple[Float[Tensor, " features"], Float[Tensor, " features"]]


class Codec(ABC):
    """An encoder of raw experience as tokens `x`, and a decoder to segments in raw units.

    The meaning of the features of `x` is defined by the codec alone. `decode` is differentiable, so
    that guides can move tokens through it. A codec with parameters is also a `torch.nn.Module`; the
    model saves its parameters.

    Example:
        >>> from pgdiff import Tokens
        >>> from pgdiff.model import Codec
        >>> from pgdiff.testing import example_episodes
        >>> isinstance(Tokens(horizon=8).fit(example_episodes()), Codec)
        True
    """

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Number of tokens T of `x`."""

    @property
    @abstractmethod
    def features(self) -> int:
        """Number of features D of a token."""

    @property
    @abstractmethod
    def spec(self) -> SegmentSpec:
        """Fields, sizes and way-points of decoded segments."""

    @abstractmethod
    def dataset(self, episodes: Episodes) -> Any:
        """Return the segments of a recording for `encode`, as a `BatchSource`."""

    @abstractmethod
    def encode(self, batch: Any) -> Signal:
        """Return the normalised tokens of a batch of `dataset`."""

    def valid(self, batch: Any) -> Bool[Tensor, "batch tokens"]:
        """Return the mask of tokens that are not padding."""
        mask: Tensor = batch.mask
        return mask

    @abstractmethod
    def decode(self, x: Signal) -> Segment:
        """Return normalised tokens as a segment in raw units; differentiable."""

    @property
    def observation_layout(self) -> ObservationLayout | None:
        """Order of the fields of Dict observations; None for flat ones."""
        return None

    @property
    def goal_features(self) -> tuple[int, ...]:
        """Indices of an observation's features that a goal fixes."""
        return (0, 1)

    @property
    def positions(self) -> tuple[int, ...]:
        """Indices of the features of `x` that are positions; none if no feature is one."""
        return ()

    def encode_positions(
        self, positions: Float[Tensor, "*batch position"]
    ) -> Float[Tensor, "*batch position"]:
        """Return positions in raw units as the values of the features `positions`.

        Raises:
            PgdiffError: no feature of the tokens is a position.
        """
        raise PgdiffError(f"A {type(self).__name__} has no feature that is a position.")

    @property
    def required_conditions(self) -> tuple[str, ...]:
        """Names of the conditions that a model needs because the codec cannot in-paint."""
        return ()

    @property
    def action_range(self) -> Sequence[Sequence[float]] | None:
        """Smallest and largest action of the training data; None if unknown."""
        return None

    def with_tokens(self, tokens: int) -> "Codec":
        """Return the codec for another number of tokens."""
        raise PgdiffError(f"`horizon` must be {self.tokens}: {type(self).__name__} has one length.")

    # ------------------------------------------------------------------------------- in-painting

    def draw_inpainting(
        self, count: int, generator: Any
    ) -> Bool[Tensor, "batch tokens features"] | None:
        """Return a random mask of given features for each training segment; None without any."""
        return None

    def inpaint(
        self,
        observation: Float[Tensor, "batch observation"],
        goal: Float[Tensor, "batch goal"] | None = None,
        arrival: Int[Tensor, " batch"] | None = None,
    ) -> Inpainting:
        """Return the features that are given by an observation and an optional goal in raw units.

        A codec with `required_conditions` returns an in-painting without given features.

        Raises:
            PgdiffError: the tokens do not hold observations.
        """
        if self.required_conditions and goal is None:
            mask = torch.zeros(1, self.tokens, self.features, dtype=torch.bool)
            values = observation.new_zeros(len(observation), self.tokens, self.features)
            return Inpainting(mask.to(observation.device), values)
        raise PgdiffError(
            f"`model` must hold observations in its tokens to in-paint one. Got the codec "
            f"{type(self).__name__}. Pass the observation as a condition."
        )

    def continue_from(self, past: Signal, tokens: int) -> Inpainting:
        """Return past tokens as the given beginning of a segment of `tokens` tokens."""
        mask = torch.zeros(1, tokens, self.features, dtype=torch.bool, device=past.device)
        mask[:, : past.shape[1]] = True
        values = past.new_zeros(len(past), tokens, self.features)
        values[:, : past.shape[1]] = past
        return Inpainting(mask, values)

    # ------------------------------------------------------------------- properties of the tokens

    def clean_limits(self) -> Limits | None:
        """Return the smallest and largest value of each clean feature; None for no limits."""
        return None

    @property
    def partial_inpainting(self) -> bool:
        """True if training gives some, but not all, features of a token."""
        return False

    def pattern(self, name: str) -> Bool[Tensor, "tokens features"]:
        """Return the mask of a pattern; by default only "none", without given features."""
        if name != "none":
            raise PgdiffError(
                f"`pattern` must be 'none' with a {type(self).__name__}. Got '{name}'."
            )
        return torch.zeros(self.tokens, self.features, dtype=torch.bool)

    def covers(self, given: Bool[Tensor, "#batch tokens features"], *, per_token: bool) -> bool:
        """Return whether training has given features with this mask.

        Args:
            given: mask of given features, for the codec's number of tokens or fewer.
            per_token: whether training draws a noise level for each token, so that whole tokens may
                be given.
        """
        return not given.any()

    def feature_factor(self) -> Float[Tensor, " features"]:
        """Return the size of each normalised feature, relative to a spread of about 1."""
        return torch.ones(self.features)

    def variance(self) -> Float[Tensor, " features"] | None:
        """Return the variance of each feature over the training data; None if unknown."""
        return None

    def log_slope(self, batch: Any, *, like: Tensor | None = None) -> Signal:
        """Return the log-derivative of `encode` at a batch for each feature.

        Raises:
            PgdiffError: the codec does not encode features separately.
        """
        raise PgdiffError(f"{type(self).__name__} has no density in raw units.")

    def feature_mask(self, fields: Sequence[str]) -> Bool[Tensor, " features"]:
        """Return the mask of the features of these fields of a segment.

        Raises:
            PgdiffError: tokens do not have a field.
        """
        raise PgdiffError(f"`fields` must be None for a model with a {type(self).__name__}.")

    def decode_plan(self, x: Signal) -> Segment:
        """Return `decode(x)`, corrected for rounding so that environments accept its values."""
        return self.decode(x)

    def as_batch(
        self,
        observations: Float[np.ndarray, "batch tokens observation"],
        actions: Float[np.ndarray, "batch steps action"] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> Any:
        """Return plans as a batch of segments for `encode`.

        Raises:
            PgdiffError: the tokens have fields that plans do not store.
        """
        raise PgdiffError(
            f"A model with a {type(self).__name__} cannot start from a plan. Plan without "
            "`warm_start` and `keep_previous`."
        )

    def observation_scale(self) -> Float[np.ndarray, " observation"]:
        """Return the raw size of one normalised unit of each feature of an observation."""
        raise PgdiffError(f"A model with a {type(self).__name__} cannot filter observations.")

    def check_observation(
        self, observations: Float[np.ndarray, "environments observation"]
    ) -> str | None:
        """Return a warning about observations far outside the training data, or None."""
        return None
