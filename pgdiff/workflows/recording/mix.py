"""Settings of a mixed recording: agents, noise levels and shares of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgdiff.core.validation import PgdiffError, check_range


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part of a mix: one agent at one noise level.

    Attributes:
        agent: "first" or "last" of the agents, which are ordered from worst to best, or a negative
            index from the end (-1 is the last).
        noise: standard deviation of the Gaussian noise on its actions, in units of half the action
            range.
        noise_alone: noise used instead of `noise` if only one agent is given, which then also
            replaces a worse agent; None uses `noise`.
        deterministic: use the agent's mean action instead of a sampled one.
        share: share of the rows, in (0, 1].

    Raises:
        PgdiffError: a value is out of range.
    """

    agent: str | int = "last"
    noise: float = 0.0
    noise_alone: float | None = None
    deterministic: bool = True
    share: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.agent, np.integer):
            object.__setattr__(self, "agent", int(self.agent))
        counted = isinstance(self.agent, int) and not isinstance(self.agent, bool)
        if self.agent not in ("first", "last") and not (counted and int(self.agent) < 0):
            raise PgdiffError(
                "`agent` must be 'first', 'last' or a negative integer (-1 is the last). "
                f"Got {self.agent!r}."
            )
        check_range("noise", self.noise, low=0.0)
        if self.noise_alone is not None:
            check_range("noise_alone", self.noise_alone, low=0.0)
        if not isinstance(self.deterministic, bool):
            raise PgdiffError(f"`deterministic` must be true or false. Got {self.deterministic!r}.")
        check_range("share", self.share, low=0.0, high=1.0, open_low=True)

    def index(self, agents: int) -> int:
        """Return the index of the agent among `agents` agents, from 0."""
        indices = {"first": 0, "last": agents - 1}
        index = indices[self.agent] if isinstance(self.agent, str) else agents + self.agent
        if index < 0:
            raise PgdiffError(
                f"`agent` must be at least -{agents}, the number of agents. Got {self.agent}."
            )
        return index

    def noise_of(self, agents: int) -> float:
        """Return the noise level if `agents` agents are given."""
        return self.noise if agents > 1 or self.noise_alone is None else self.noise_alone


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Sequence of parts in a recording.

    Attributes:
        name: name of the mix, stored in the file.
        parts: at least one part; their shares sum to 1.

    Raises:
        PgdiffError: the shares do not sum to 1.
    """

    name: str
    parts: Sequence[Part]

    def __post_init__(self) -> None:
        total = sum(part.share for part in self.parts)
        if abs(total - 1.0) > 1e-6:
            raise PgdiffError(
                f"The `share`s of the mix '{self.name}' must sum to 1. "
                f"Got {len(self.parts)} parts whose sum is {total:g}."
            )

    def stops(self, steps: int) -> list[int]:
        """Return the end row (exclusive) of each part in a recording of `steps` rows."""
        shares = np.cumsum([part.share for part in self.parts])
        stops = [round(float(share) * steps) for share in shares]
        if min(np.diff([0, *stops])) < 1:
            raise PgdiffError(
                f"`steps` must give each of the {len(stops)} parts of the mix '{self.name}' at "
                f"least one row. Got {steps}. Record more steps."
            )
        return stops
