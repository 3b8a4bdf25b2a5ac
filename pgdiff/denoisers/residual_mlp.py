"""A residual network of fully connected layers, for single transitions."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.core.context import Context
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError, check_positive_int, check_range
from pgdiff.denoisers.base import DenoiserSpec
from pgdiff.nn.embeddings import LevelEmbedding


@register("denoiser", "residual_mlp")
@dataclass(frozen=True, kw_only=True)
class ResidualMLPConfig:
    """Size of a `ResidualMLP`; `build` returns the network for a number of features.

    SynthER (Lu et al. 2023) uses width 2048, depth 6 and embedding 128.

    Attributes:
        width: size of a token inside the blocks.
        depth: number of blocks.
        embedding: size of the projected token and of its embedded level; even.
        level_scale: factor from levels in [0, 1] to the embedded time steps.

    Example:
        >>> import torch
        >>> from pgdiff.denoisers import DenoiserSpec, ResidualMLPConfig
        >>> config = ResidualMLPConfig(width=16, depth=1, embedding=8)
        >>> network = config.build(DenoiserSpec(features=3))
        >>> network(torch.zeros(2, 1, 3), torch.zeros(2, 1)).shape
        torch.Size([2, 1, 3])
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

    def build(self, spec: DenoiserSpec) -> "ResidualMLP":
        """Return a new network, whose context may hold vectors."""
        spec.check_vectors("ResidualMLP")
        assert spec.outputs is not None
        return ResidualMLP(
            features=spec.features,
            outputs=spec.outputs,
            condition=spec.vector_size,
            config=self,
        )


class ResidualMLP(nn.Module):
    """A network for every token separately: outputs depend on no position and no other token.

    The network of SynthER (Lu et al. 2023) for one transition as one token: the projected token
    plus its embedded level, a layer to the full width, residual blocks of ReLU and one layer
    without norm, ReLU and a last layer. There are two differences: the level is embedded by
    sinusoids instead of random Fourier features, and a condition is added to the embedded level
    instead of being concatenated to the token.

    Args:
        features: size of a token.
        outputs: size of a token's output.
        condition: size of the condition vector; 0 for none.
        config: size of the network.

    Example:
        >>> from pgdiff.denoisers import ResidualMLP, ResidualMLPConfig
        >>> config = ResidualMLPConfig(width=16, depth=1, embedding=8)
        >>> network = ResidualMLP(features=3, outputs=3, condition=0, config=config)
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
        context: Context | None = None,
    ) -> Float[Tensor, "batch tokens outputs"]:
        """Return the raw output at `x`.

        Args:
            x: noisy tokens, normalised.
            level: noise levels of the tokens in [0, 1]. A batch of 1 applies to all rows.
            context: context with a vector for each row, added to every token's embedded level.

        Raises:
            PgdiffError: the condition is missing, or the network was built without one.
        """
        vector = None if context is None else context.vector
        h = self.widen(self.token_in(x) + self.embed(level, vector))
        for block in self.blocks:
            h = h + block(h)
        out: Tensor = self.token_out(h)
        return out
