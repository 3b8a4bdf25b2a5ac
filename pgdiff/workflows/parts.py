"""What a recording is mixed of: which agents, how noisy, in which shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgdiff.validation import PgdiffError, check_range


@dataclass(frozen=True, kw_only=True)
class Part:
    """One agent at one noise level.

    Attributes:
        agent: "first" or "last" of the agents, which are given from worst to best, or a negative
            number that counts from the end: -1 is the last.
        noise: standard deviation of the Gaussian noise on its actions, in units of half the action
            range.
        noise_alone: the noise instead where a single agent is given, which then stands for a worse
            one too; None for `noise`.
        deterministic: whether the agent is asked for its mean action or for a draw.
        share: of the rows, in (0, 1].

    Raises:
        PgdiffError: a value outside its range.
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
        """Which of so many agents it is, from 0."""
        places = {"first": 0, "last": agents - 1}
        place = places[self.agent] if isinstance(self.agent, str) else agents + self.agent
        if place < 0:
            raise PgdiffError(
                f"`agent` must be one of the {agents} that are given. Got {self.agent}."
            )
        return place

    def noise_of(self, agents: int) -> float:
        """The noise where so many agents are given."""
        return self.noise if agents > 1 or self.noise_alone is None else self.noise_alone


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Parts that follow each other in a recording.

    Attributes:
        name: kept in the file.
        parts: at least one; their shares sum to 1.

    Raises:
        PgdiffError: no parts, or other shares.
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
        """The row after the last one of every part, of so many rows in all."""
        shares = np.cumsum([part.share for part in self.parts])
        stops = [round(float(share) * steps) for share in shares]
        if min(np.diff([0, *stops])) < 1:
            raise PgdiffError(
                f"`steps` must give each of the {len(stops)} parts of the mix '{self.name}' a row. "
                f"Got {steps}."
            )
        return stops
