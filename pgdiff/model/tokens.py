"""Settings of a model's tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgdiff.core.registry import register
from pgdiff.core.validation import check_positive_int
from pgdiff.data import Episodes
from pgdiff.data.normalizers import fit_tokens
from pgdiff.data.segments import token_fields
from pgdiff.model.affine_codec import AffineCodec
from pgdiff.model.clipping import recorded_range
from pgdiff.model.inpainting import InpaintingPatterns
from pgdiff.trajectory import Layout


@register("tokens", "tokens")
@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of a segment: their number, their stride, and their fields.

    Attributes:
        horizon: number of tokens of a segment.
        stride: environment steps between neighbouring tokens. With a larger stride a plan of equal
            length covers more time.
        fields: fields of a token: "observations", and optionally "actions" (the action at the
            token), "action_chunks" (all actions up to the next token) or "previous_actions" (all
            actions since the previous token), "rewards" (their sum up to the next token),
            "terminals" and "next_observations" (after the token's step).
        normalizer: "limits", "standard" or "arctanh" (for actions; other fields as "standard").
        field_scales: factors of normalised fields by name; 1 if not named. Fields with a small
            factor disappear in noise sooner, so that samples determine the other fields first; the
            weight of their errors falls with the square of the factor.

    Example:
        >>> from pgdiff import Tokens
        >>> from pgdiff.testing import example_episodes
        >>> codec = Tokens(horizon=8, stride=2, fields=("observations", "actions")).fit(
        ...     example_episodes()
        ... )
        >>> codec.features
        6
    """

    horizon: int
    stride: int = 1
    fields: Sequence[str] = ("observations",)
    normalizer: str = "limits"
    field_scales: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_positive_int("horizon", self.horizon)
        check_positive_int("stride", self.stride)
        object.__setattr__(self, "fields", tuple(self.fields))

    @classmethod
    def transitions(cls, *, horizon: int, normalizer: str = "arctanh") -> "Tokens":
        """Return tokens of whole transitions, for synthetic experience."""
        fields = ("observations", "actions", "rewards", "terminals")
        return cls(horizon=horizon, fields=fields, normalizer=normalizer)

    def fit(
        self, episodes: Episodes, *, inpainting: InpaintingPatterns | None = None
    ) -> AffineCodec:
        """Return the codec whose layout and normaliser fit a recording.

        Args:
            episodes: recorded experience.
            inpainting: patterns of given features that training draws from; the first observation
                if None.
        """
        parts = token_fields(episodes, self.fields, stride=self.stride)
        sizes = tuple((name, array.shape[-1] * repeat) for name, array, repeat in parts)
        layout = Layout(fields=sizes, horizon=self.horizon, stride=self.stride)
        return AffineCodec(
            layout=layout,
            normalizer=fit_tokens(self.normalizer, parts, scales=self.field_scales),
            inpainting=InpaintingPatterns() if inpainting is None else inpainting,
            observation_layout=episodes.observation_layout,
            action_range=recorded_range(episodes, layout),
        )
