"""The random numbers of one sampling, drawn from explicit generators in a fixed order."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pgdiff.core.validation import PgdiffError, check_each, check_seed


class NoiseSource:
    """The random numbers of one sampling: start, solver, futures, measurements and resampling.

    Each generator draws an equal, contiguous share of the batch (a group), so that the samples of a
    group do not depend on the other groups. Noise is drawn on a generator's own device and then
    moved. A sample is a function of its noise: `replay` repeats a recorded sampling bit for bit.

    Args:
        generators: one for each group; their number must divide the batch.
        batch: number of trajectories.
        record: whether to keep all drawn numbers in `values`.

    Attributes:
        values: numbers in the order in which they were drawn; empty unless `record` is True.

    Example:
        >>> import torch
        >>> from pgdiff.diffusion import NoiseSource
        >>> noise = NoiseSource.from_seeds([3, 4], batch=6, record=True)
        >>> first = noise.normal((6, 8, 2), dtype=torch.float32, device=torch.device("cpu"))
        >>> again = noise.replay().normal((6, 8, 2), dtype=torch.float32, device=first.device)
        >>> bool((first == again).all())
        True
    """

    def __init__(
        self, generators: Sequence[torch.Generator], *, batch: int, record: bool = False
    ) -> None:
        self.generators = tuple(generators)
        self.batch = batch
        self.share = share_of(batch, generators)
        self.record = record
        self.values: list[Tensor] = []
        self._left: list[Tensor] | None = None

    @classmethod
    def from_seeds(
        cls,
        seeds: int | Sequence[int],
        *,
        batch: int,
        device: torch.device | str = "cpu",
        record: bool = False,
    ) -> "NoiseSource":
        """Return a source with a generator for each seed.

        Args:
            seeds: one seed for the whole batch, or one for each group.
            batch: number of trajectories.
            device: device of the generators.
            record: whether to keep the numbers for a replay.
        """
        several = [seeds] if isinstance(seeds, int) else list(seeds)
        generators = [
            torch.Generator(device).manual_seed(check_seed("seed", seed)) for seed in several
        ]
        return cls(generators, batch=batch, record=record)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.generators)

    def replay(self, values: Sequence[Tensor] | None = None) -> "NoiseSource":
        """Return a source that returns recorded numbers in order.

        Args:
            values: recorded numbers, possibly perturbed; the numbers of this source if None.

        Raises:
            PgdiffError: no numbers were recorded.
        """
        recorded = self.values if values is None else values
        if not recorded:
            raise PgdiffError("`record` must be True to replay a source. Got no recorded numbers.")
        source = NoiseSource(self.generators, batch=self.batch)
        source._left = [value.clone() for value in recorded]
        return source

    def normal(
        self,
        shape: tuple[int, int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
        needed: Sequence[bool] | None = None,
    ) -> Float[Tensor, "batch tokens features"]:
        """Return standard normal noise.

        Args:
            shape: batch, tokens, features.
            dtype: type of the result.
            device: device of the result.
            needed: whether each group needs its share; all do if None. A share that is not needed
                is 0 and its generator does not advance, as if the group were sampled alone.
        """
        if self._left is not None:
            return self._next(shape).to(device=device, dtype=dtype)
        part = (self.share, *shape[1:])
        parts = [
            torch.randn(part, generator=source, dtype=dtype, device=source.device).to(device)
            if used
            else torch.zeros(part, dtype=dtype, device=device)
            for source, used in zip(self.generators, needed or [True] * self.groups, strict=True)
        ]
        return self._kept(torch.cat(parts))

    def uniform(self, group: int) -> Float[Tensor, "1"]:
        """Return one uniform number in [0, 1) for a group, in double precision."""
        source = self.generators[group]
        if self._left is not None:
            return self._next((1,)).to(source.device)
        return self._kept(
            torch.rand(1, generator=source, device=source.device, dtype=torch.float64)
        )

    def finish(self) -> None:
        """Raise if a replay has numbers left: the recorded sampling drew more.

        Raises:
            PgdiffError: numbers are left.
        """
        if self._left:
            raise PgdiffError(
                "`values` must hold the noise of the same sampling, which draws fewer numbers. "
                f"Got {len(self._left)} tensors too many. Replay with the settings of the "
                "recording."
            )

    def _kept(self, value: Tensor) -> Tensor:
        if self.record:
            self.values.append(value.clone())
        return value

    def _next(self, shape: tuple[int, ...]) -> Tensor:
        assert self._left is not None
        if not self._left or tuple(self._left[0].shape) != shape:
            shape_left = list(self._left[0].shape) if self._left else "no more numbers"
            raise PgdiffError(
                f"`values` must hold the noise of the same sampling, next of shape {list(shape)}. "
                f"Got {shape_left}. Replay with the settings of the recording."
            )
        return self._left.pop(0)


def share_of(batch: int, generators: Sequence[torch.Generator]) -> int:
    """Return the number of trajectories of the batch that each generator draws.

    Raises:
        PgdiffError: without generators, or if their number does not divide the batch.
    """
    check_each("generators", generators, torch.Generator)
    if not generators or batch % len(generators):
        raise PgdiffError(
            f"The number of generators must divide the batch of {batch}. Got {len(generators)}."
        )
    return batch // len(generators)
