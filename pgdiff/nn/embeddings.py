"""Embeddings of noise levels, positions and conditions, shared by the denoisers."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.core.validation import PgdiffError, check_positive_int


def sinusoids(
    position: Float[Tensor, "*shape"], width: int, *, longest: float = 10_000.0, shift: int = 0
) -> Float[Tensor, "*shape width"]:
    """Return sines and cosines of `position` (Vaswani et al. 2017, section 3.5), `width` in all.

    Args:
        position: any numbers.
        width: size of the embedding; even.
        longest: units of `position` per radian of the slowest wave, approximately.
        shift: with 0 the rates end one step before 1/longest (Vaswani et al.), with 1 the last rate
            is 1/longest (code of Ho et al. 2020) and the width must be at least 4.
    """
    half = width // 2
    rate = torch.exp(
        -math.log(longest)
        / (half - shift)
        * torch.arange(half, device=position.device, dtype=position.dtype)
    )
    angle = position[..., None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def in_type_of(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return `x` in the type of the layers' weights.

    Levels and positions are computed in float32 or more for weights of any type: bfloat16 has too
    few digits to distinguish neighbouring levels, or positions beyond 256.
    """
    return x.to(next(layers.parameters()).dtype)


class LevelEmbedding(nn.Module):
    """Embedding of every token's noise level, plus the embedding of an optional condition.

    Sinusoids of the scaled level pass two layers. A condition passes two other layers and is added
    to the embedding of every token.

    Args:
        width: size of the embedding; even and at least 4.
        hidden: width of the hidden layers.
        activation: nonlinearity of the hidden layers.
        scale: factor from levels in [0, 1] to time steps, the unit of the frequencies.
        condition: size of the condition; 0 for none.
    """

    def __init__(
        self, *, width: int, hidden: int, activation: type[nn.Module], scale: float, condition: int
    ) -> None:
        super().__init__()
        check_positive_int("condition", condition, minimum=0)
        self.width = width
        self.scale = scale
        self.level_in = nn.Sequential(
            nn.Linear(width, hidden), activation(), nn.Linear(hidden, width)
        )
        self.condition_in: nn.Sequential | None = None
        if condition > 0:
            self.condition_in = nn.Sequential(
                nn.Linear(condition, hidden), activation(), nn.Linear(hidden, width)
            )

    def forward(
        self,
        level: Float[Tensor, "#batch tokens"],
        condition: Float[Tensor, "#batch condition"] | None = None,
    ) -> Float[Tensor, "#batch tokens width"]:
        """Embed levels in [0, 1] and the condition, if the network has one.

        Raises:
            PgdiffError: the condition is missing, or the network was built without one.
        """
        waves = sinusoids(self.scale * level, self.width, shift=1)
        embedding: Tensor = self.level_in(in_type_of(self.level_in, waves))
        return add_condition(embedding, condition, self.condition_in)


def add_condition(
    embedding: Float[Tensor, "#batch tokens width"],
    condition: Float[Tensor, "#batch condition"] | None,
    layers: nn.Sequential | None,
) -> Float[Tensor, "#batch tokens width"]:
    """Return the embedded levels plus the embedded condition.

    Args:
        embedding: embedded level of every token.
        condition: vector for each row; None in a network without a condition.
        layers: layers that embed the condition, a linear one first; None in a network without one.

    Raises:
        PgdiffError: the condition is missing, has the wrong size, or the network was built without
            one.
    """
    if layers is None:
        if condition is not None:
            raise PgdiffError("`condition` must be None, as the network was built without one.")
        return embedding
    if condition is None:
        raise PgdiffError("`condition` must be given, as the network was built with one.")
    first = layers[0]
    assert isinstance(first, nn.Linear)
    if condition.ndim != 2 or condition.shape[1] != first.in_features:
        raise PgdiffError(
            f"`condition` must have shape [batch, {first.in_features}]. "
            f"Got {list(condition.shape)}."
        )
    added: Tensor = layers(condition)
    return embedding + added[:, None]
