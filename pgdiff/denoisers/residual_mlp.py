"""A residual network of fully connected layers, for single transitions."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.denoisers.embeddings import LevelEmbedding
from pgdiff.registry import register
from pgdiff.validation import PgdiffError, check_positive_int, check_range


@register("denoiser", "residual_mlp")
@dataclass(frozen=True, kw_only=True)
class ResidualMLPConfig:
    """Size of a `ResidualMLP`; `build` makes the network for a number of features.

    SynthER (Lu et al. 2023) has width 2048, depth 6 and embedding 128.

    Attributes:
        width: size of a token inside the blocks.
        depth: number of blocks.
        embedding: size of a token and its level where the two are added; even.
        level_scale: factor from levels in [0, 1] to the time steps that are embedded.
    """

    width: int = 256
    depth: int = 6
    embedding: int = 128
    level_scale: float = 1000.0

    def __post_init__(self) -> None:
        check_positive_int("width", self.width)
        check_positive_int("depth", self.depth)
        check_positive_int("embedding", self.embedding, minimum=4)
        check_range("level_scale", self.level_scale, low=0.0, open_low=True)
        if self.embedding % 2:
            raise PgdiffError(f"`embedding` must be even. Got {self.embedding}.")

    def build(
        self, *, features: int, outputs: int | None = None, condition: int = 0
    ) -> "ResidualMLP":
        """Make a network for tokens of `features` features.

        Args:
            features: size of a token.
            outputs: size of a token's output; as many if None.
            condition: size of the condition vector; 0 for none.
        """
        count = features if outputs is None else outputs
        return ResidualMLP(features=features, outputs=count, condition=condition, config=self)


class ResidualMLP(nn.Module):
    """Raw output for every token by itself: tokens know neither their place nor each other.

    The network of SynthER (Lu et al. 2023) for one transition as one token: the projected token
    plus its embedded level, a layer to the full width, residual blocks of ReLU and one layer each
    without norm, ReLU and a last layer. Two things differ: the level is embedded by sinusoids in
    place of random Fourier features, and a condition is added to it in place of being joined to
    the token.

    Args:
        features: size of a token.
        outputs: size of a token's output.
        condition: size of the condition vector; 0 for none.
        config: size of the network.
    """

    def __init__(
        self, *, features: int, outputs: int, condition: int, config: ResidualMLPConfig
    ) -> None:
        super().__init__()
        self.token_in = nn.Linear(features, config.embedding)
        self.embed = LevelEmbedding(
            width=config.embedding,
            hidden=config.embedding,
            activation=nn.SiLU,
            scale=config.level_scale,
            condition=condition,
        )
        self.widen = nn.Linear(config.embedding, config.width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(config.width, config.width))
            for _ in range(config.depth)
        )
        self.token_out = nn.Sequential(nn.ReLU(), nn.Linear(config.width, outputs))

    def forward(
        self,
        x: Float[Tensor, "batch tokens features"],
        level: Float[Tensor, "#batch tokens"],
        condition: Float[Tensor, "#batch condition"] | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Raw output at `x`.

        Args:
            x: noisy tokens, normalised.
            level: their noise levels in [0, 1]. A batch of 1 stands for all rows alike.
            condition: vector for each row, added to every token's embedded level.

        Raises:
            PgdiffError: the condition is missing or was not foreseen.
        """
        h = self.widen(self.token_in(x) + self.embed(level, condition))
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.token_out(h)
        return out
