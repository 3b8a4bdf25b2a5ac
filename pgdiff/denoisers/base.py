"""The protocol of denoiser configurations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from pgdiff.core.context import JOINT
from pgdiff.core.validation import PgdiffError, check_positive_int

CleanEstimate = Callable[
    [
        Float[Tensor, "batch tokens features"],
        Float[Tensor, "#batch tokens"],
        Float[Tensor, "batch tokens outputs"],
    ],
    Float[Tensor, "batch tokens features"],
]
"""Clean estimate x0_hat of noisy tokens at their levels from a network's raw output."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoiserSpec:
    """The tokens and the context that a network is built for.

    Attributes:
        features: size of a token.
        outputs: size of a token's output; equal to `features` if None.
        positions: indices of the features that are positions, in which maps extend.
        context: shape of each entry of the context, without the batch; see
            `pgdiff.core.context.Context`.
        clean_estimate: clean estimate of noisy tokens from a raw output, for networks that read a
            hint at it; None for networks that are no denoisers, such as values.

    Example:
        >>> from pgdiff.denoisers import DenoiserSpec
        >>> DenoiserSpec(features=4, context={"condition": (3,), "speed": (1,)}).vector_size
        5
    """

    features: int
    outputs: int | None = None
    positions: tuple[int, ...] = ()
    context: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    clean_estimate: CleanEstimate | None = None

    def __post_init__(self) -> None:
        check_positive_int("features", self.features)
        outputs = self.features if self.outputs is None else self.outputs
        object.__setattr__(self, "outputs", check_positive_int("outputs", outputs))
        for name, shape in self.context.items():
            for size in shape:
                check_positive_int(name, size)

    @property
    def vector_size(self) -> int:
        """Size of `Context.vector`: all vectors and their flags; 0 without any."""
        vectors = {name: shape[0] for name, shape in self.context.items() if len(shape) == 1}
        return sum(size + (name != JOINT) for name, size in vectors.items())

    def check_vectors(self, network: str) -> None:
        """Raise if the context holds entries that a network of vectors does not read."""
        for name, shape in self.context.items():
            if len(shape) != 1:
                raise PgdiffError(
                    f"`denoiser` must read the hint '{name}' of the shape {list(shape)}. Got "
                    f"{network}, which reads vectors only. Choose another denoiser."
                )


@runtime_checkable
class DenoiserConfig(Protocol):
    """A frozen, registered configuration of a network.

    The network is called as `network(x, level)` with noisy tokens `[batch, tokens, features]` and
    levels `[batch or 1, tokens]` in [0, 1], and returns its raw output `[batch, tokens, outputs]`;
    the model's `prediction` defines its meaning. A network that was built with a context is called
    as `network(x, level, context)`, with a `pgdiff.core.context.Context`.

    A network whose tokens depend on earlier tokens and themselves alone has a true attribute
    `causal`. If it also has the methods `new_cache` and `forward_and_extend` of `Transformer`,
    sampling computes changed tokens only.

    If the network does not accept every number of tokens, the configuration has a method
    `check_tokens(tokens)` that raises a `PgdiffError` for numbers that do not fit.

    Example:
        >>> from pgdiff.denoisers import DenoiserConfig, TransformerConfig
        >>> isinstance(TransformerConfig(), DenoiserConfig)
        True
    """

    def build(self, spec: DenoiserSpec) -> nn.Module:
        """Return a new network for these tokens and this context."""
        ...
