"""What a denoiser is to the rest of the package."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class DenoiserConfig(Protocol):
    """A frozen, registered description of a network.

    The network is called as `network(x, level)` with noisy tokens `[batch, tokens, features]` and
    levels `[batch or 1, tokens]` in [0, 1], and gives its raw output `[batch, tokens, outputs]`;
    the model's `prediction` says what that means. One that was built with a condition is called as
    `network(x, level, condition)`, with a vector `[batch or 1, condition]`.

    A network that cannot take any number of tokens has a method `check_tokens(tokens)` in its
    description, which raises a `PgdiffError` for one that does not fit.
    """

    def build(self, *, features: int, outputs: int | None = None, condition: int = 0) -> nn.Module:
        """Make the network.

        Args:
            features: size of a token.
            outputs: size of a token's output; as many as `features` if None.
            condition: size of a vector that the network is told besides, in whose light it
                denoises (a return, a goal); it is embedded and added to the embedding of every
                token's level. 0 for none: the network has no weights for it then.
        """
        ...
