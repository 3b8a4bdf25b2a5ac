"""Parts of the temporal U-Net. Inside it, tokens are the last axis, as convolutions need."""

from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """Convolution over tokens, group norm over tokens and a group's channels, and Mish.

    Args:
        inputs: input channels.
        outputs: output channels; a multiple of `groups`.
        kernel: tokens that a filter spans; odd, so that the number of tokens stays.
        groups: groups of the norm.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, groups: int) -> None:
        super().__init__(
            nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2),
            nn.GroupNorm(groups, outputs),
            nn.Mish(),
        )


class ResidualBlock(nn.Module):
    """Two `ConvBlock`s with the embedded levels added between them, and a shortcut.

    Args:
        inputs: input channels.
        outputs: output channels.
        embedding: size of a token's embedded level.
        kernel: as in `ConvBlock`.
        groups: as in `ConvBlock`.
    """

    def __init__(
        self, inputs: int, outputs: int, *, embedding: int, kernel: int, groups: int
    ) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, kernel=kernel, groups=groups)
        self.second = ConvBlock(outputs, outputs, kernel=kernel, groups=groups)
        self.level_in = nn.Sequential(nn.Mish(), nn.Linear(embedding, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(
        self,
        h: Float[Tensor, "batch inputs tokens"],
        embedding: Float[Tensor, "#batch tokens width"],
    ) -> Float[Tensor, "batch outputs tokens"]:
        """Transform channels `h`, given the embedded levels at this resolution."""
        added = rearrange(self.level_in(embedding), "b t c -> b c t")
        out: Tensor = self.second(self.first(h) + added) + self.shortcut(h)
        return out


class Stage(nn.Module):
    """The two residual blocks of one resolution.

    Args:
        inputs: input channels.
        outputs: output channels.
        embedding: size of a token's embedded level.
        kernel: as in `ConvBlock`.
        groups: as in `ConvBlock`.
    """

    def __init__(
        self, inputs: int, outputs: int, *, embedding: int, kernel: int, groups: int
    ) -> None:
        super().__init__()
        self.first = ResidualBlock(
            inputs, outputs, embedding=embedding, kernel=kernel, groups=groups
        )
        self.second = ResidualBlock(
            outputs, outputs, embedding=embedding, kernel=kernel, groups=groups
        )

    def forward(
        self,
        h: Float[Tensor, "batch inputs tokens"],
        embedding: Float[Tensor, "#batch tokens width"],
    ) -> Float[Tensor, "batch outputs tokens"]:
        """Apply both blocks, given the embedded levels at this resolution."""
        out: Tensor = self.second(self.first(h, embedding), embedding)
        return out


def shorten(channels: int) -> nn.Module:
    """Return a convolution that halves the number of tokens."""
    return nn.Conv1d(channels, channels, 3, stride=2, padding=1)


def lengthen(channels: int) -> nn.Module:
    """Return a transposed convolution that doubles the number of tokens."""
    return nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)


def pool(
    embedding: Float[Tensor, "batch tokens width"],
) -> Float[Tensor, "batch halved width"]:
    """Return the mean of neighbouring pairs of tokens, exact for equal tokens."""
    out: Tensor = reduce(embedding, "b (t pair) c -> b t c", "mean", pair=2)
    return out
