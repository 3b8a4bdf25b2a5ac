"""Diffuser's U-Net of convolutions over time (Janner et al. 2022, figure 2 and appendix C)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.core.context import Context
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.denoisers.base import DenoiserSpec
from pgdiff.nn.embeddings import LevelEmbedding
from pgdiff.nn.unet_blocks import ConvBlock, Stage, lengthen, pool, shorten


@register("denoiser", "temporal_unet")
@dataclass(frozen=True, kw_only=True)
class TemporalUnetConfig:
    """Size of a `TemporalUnet`; `build` returns the network for a number of features.

    The defaults are those of Diffuser on maze2d: 3,682,118 parameters for 6 features.

    Attributes:
        width: size of an embedded level, and unit of the channels; even.
        mults: channels of each resolution, in units of `width`. The number of tokens is halved from
            one resolution to the next.
        kernel: tokens that a filter spans; odd.
        groups: groups of the group norms; must divide the channels.
        level_scale: factor from levels in [0, 1] to the embedded time steps.

    Example:
        >>> import torch
        >>> from pgdiff.denoisers import DenoiserSpec, TemporalUnetConfig
        >>> network = TemporalUnetConfig(width=8, mults=(1, 2)).build(DenoiserSpec(features=3))
        >>> network(torch.zeros(2, 4, 3), torch.zeros(2, 4)).shape
        torch.Size([2, 4, 3])
    """

    width: int = 32
    mults: tuple[int, ...] = (1, 4, 8)
    kernel: int = 5
    groups: int = 8
    level_scale: float = 1000.0

    def __post_init__(self) -> None:
        check_positive_int("width", self.width, minimum=4)
        check_positive_int("kernel", self.kernel)
        check_positive_int("groups", self.groups)
        check_range("level_scale", self.level_scale, low=0.0, open_low=True)
        if not isinstance(self.mults, tuple) or not self.mults:
            raise PgdiffError(f"`mults` must be a tuple of at least one. Got {self.mults!r}.")
        for index, mult in enumerate(self.mults):
            check_positive_int(f"mults[{index}]", mult)
            if self.width * mult % self.groups:
                raise PgdiffError(
                    f"`groups` must divide the {self.width * mult} channels of `mults[{index}]`. "
                    f"Got {self.groups}."
                )
        if self.width % 2:
            raise PgdiffError(f"`width` must be even. Got {self.width}.")
        if self.kernel % 2 == 0:
            raise PgdiffError(f"`kernel` must be odd. Got {self.kernel}.")

    def check_tokens(self, tokens: int) -> None:
        """Raise if a number of tokens cannot be halved at every resolution."""
        factor = 2 ** (len(self.mults) - 1)
        if tokens < 1 or tokens % factor:
            raise PgdiffError(
                f"The number of tokens must be a multiple of {factor} for a U-Net of "
                f"{len(self.mults)} resolutions. Got {tokens}."
            )

    def build(self, spec: DenoiserSpec) -> "TemporalUnet":
        """Return a new network, whose context may hold vectors."""
        spec.check_vectors("TemporalUnet")
        assert spec.outputs is not None
        return TemporalUnet(
            features=spec.features,
            outputs=spec.outputs,
            condition=spec.vector_size,
            config=self,
        )


class TemporalUnet(nn.Module):
    """A U-Net of convolutions over the tokens of a noisy sequence.

    Every token has a separate noise level. Its embedding is added in the blocks of the highest
    resolution, and the mean of neighbours' embeddings at lower resolutions. With one level for all
    tokens this is exactly Diffuser's network. The network is not causal: convolutions and group
    norms mix tokens and their levels, so that every output depends on every token.

    Two peculiarities of the original are kept so that its weights fit: the last resolution has a
    skip connection although no tokens are halved below it, and the first has none.

    Args:
        features: size of a token.
        outputs: size of a token's output.
        condition: size of the condition vector; 0 for none.
        config: size of the network.

    Example:
        >>> from pgdiff.denoisers import TemporalUnet, TemporalUnetConfig
        >>> config = TemporalUnetConfig(width=8, mults=(1, 2))
        >>> network = TemporalUnet(features=3, outputs=3, condition=0, config=config)
    """

    def __init__(
        self, *, features: int, outputs: int, condition: int, config: TemporalUnetConfig
    ) -> None:
        super().__init__()
        self.config = config
        width, kernel, groups = config.width, config.kernel, config.groups
        channels = [width * mult for mult in config.mults]

        def stage(inputs: int, outputs: int) -> Stage:
            return Stage(inputs, outputs, embedding=width, kernel=kernel, groups=groups)

        self.embed = LevelEmbedding(
            width=width,
            hidden=4 * width,
            activation=nn.Mish,
            scale=config.level_scale,
            condition=condition,
        )
        self.down = nn.ModuleList(stage(a, b) for a, b in pairwise([features, *channels]))
        self.shorten = nn.ModuleList(shorten(size) for size in channels[:-1])
        self.middle = stage(channels[-1], channels[-1])
        self.up = nn.ModuleList(stage(2 * a, b) for a, b in pairwise(reversed(channels)))
        self.lengthen = nn.ModuleList(lengthen(size) for size in reversed(channels[:-1]))
        self.token_out = nn.Sequential(
            ConvBlock(channels[0], channels[0], kernel=kernel, groups=groups),
            nn.Conv1d(channels[0], outputs, 1),
        )

    def forward(
        self,
        x: Float[Tensor, "batch tokens features"],
        level: Float[Tensor, "#batch tokens"],
        context: Context | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Return the raw output at `x`.

        Args:
            x: noisy tokens, normalised.
            level: noise levels of the tokens in [0, 1]. A batch of 1 applies to all rows.
            context: context with a vector for each row, added to every token's embedded level.

        Raises:
            PgdiffError: the number of tokens does not fit (`check_tokens`), the condition is
                missing, or the network was built without one.
        """
        self.config.check_tokens(x.shape[1])
        vector = None if context is None else context.vector
        embeddings = [self.embed(level, vector)]
        h = rearrange(x, "b t c -> b c t")
        skips = []
        for index, down in enumerate(self.down):
            if index > 0:
                h = self.shorten[index - 1](h)
                embeddings.append(pool(embeddings[-1]))
            h = down(h, embeddings[-1])
            skips.append(h)
        h = self.middle(h, embeddings[-1])
        for up, longer in zip(self.up, self.lengthen, strict=True):
            h = longer(up(torch.cat([h, skips.pop()], dim=1), embeddings.pop()))
        out: Tensor = rearrange(self.token_out(h), "b c t -> b t c")
        return out
