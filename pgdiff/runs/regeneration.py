"""Settings of policy-guided regeneration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from pgdiff.agents import Actor
from pgdiff.core.settings import build, merge, plain
from pgdiff.core.validation import PgdiffError, check_flag, check_positive_int, check_range, nearest
from pgdiff.diffusion import Sampling
from pgdiff.guides import Guide
from pgdiff.runs.guides import build_guide
from pgdiff.runs.references import References, check_reference
from pgdiff.runs.run import MODEL
from pgdiff.synthesis import TaskEnds
from pgdiff.synthesis.shard_sampler import SAMPLING


@dataclass(frozen=True, kw_only=True)
class Regeneration:
    """Settings of synthetic experience that is generated repeatedly while an agent trains.

    Jackson et al. (2024): the first set is unguided; every 10,000 updates a set of 8,192
    trajectories is sampled with guidance by the present policy; 240 of 256 examples are synthetic.
    Here each member of the agent has a separate set.

    Attributes:
        model: reference to the model that generates the trajectories.
        every: number of updates between two sets.
        trajectories: number of trajectories of a set, rounded up to fill equal batches.
        sets: number of the newest sets that the agent trains on, all generated before the first
            update. Ten small sets follow the policy more closely than one large set.
        share: share of synthetic examples in a batch, in [0, 1].
        guide: settings of `pgdiff.guides.Policy` except its agent; None for no guide.
        sampling: settings of the sampling, which merge into those of `pgdiff.generate`.
        termination: id of an environment whose rule ends trajectories too, see `TaskEnds`; None to
            end them by generated terminals alone.
        batch: largest number of trajectories that are sampled at once.
        compile: whether the model's networks are compiled.

    Example:
        >>> from pgdiff.runs.regeneration import Regeneration
        >>> settings = Regeneration.from_settings({"every": 100, "sampling": {"steps": 8}})
        >>> settings.every, settings.sampler().steps
        (100, 8)
    """

    model: Mapping[str, Any] = field(default_factory=lambda: {"stage": MODEL})
    every: int = 10_000
    trajectories: int = 1024
    sets: int = 1
    share: float = 240 / 256
    guide: Mapping[str, Any] | None = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    termination: str | None = None
    batch: int = 256
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("every", "trajectories", "sets", "batch"):
            check_positive_int(name, getattr(self, name))
        check_range("share", self.share, low=0.0, high=1.0)
        check_flag("compile", self.compile)
        for name, given in (
            ("guide", self.guide or {}),
            ("sampling", self.sampling),
            ("model", self.model),
        ):
            if not isinstance(given, Mapping):
                raise PgdiffError(f"`{name}` must be settings by name. Got {given!r}.")
        check_reference(self.model, name="synthetic.model")
        self.sampler()
        for name in ("agent", "name"):
            if name in (self.guide or {}):
                raise PgdiffError(
                    f"`guide` must not have '{name}', because the policy of the trained agent "
                    "guides the sampling."
                )
        self.guides()
        self.rule()

    def guides(self, agent: Actor | None = None) -> tuple[Guide, ...]:
        """Return the guide towards an agent's policy; an empty tuple if `guide` is None.

        Args:
            agent: agent of the guide; None for a stand-in, to check the settings.

        Raises:
            PgdiffError: a setting is unknown or out of range.
        """
        if self.guide is None:
            return ()
        settings = {
            **self.guide,
            "name": "policy",
            "agent": _AnyActor() if agent is None else agent,
        }
        return (build_guide("policy", settings, References((), None)),)

    def sampler(self) -> Sampling:
        """Return the settings of the sampling."""
        sampling: Sampling = build(Sampling, merge(plain(SAMPLING), self.sampling), name="sampling")
        return sampling

    def rule(self) -> TaskEnds | None:
        """Return the rule that ends trajectories besides generated terminals; None without one."""
        return None if self.termination is None else TaskEnds(self.termination)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Regeneration":
        """Return the settings from plain values.

        Raises:
            PgdiffError: a setting is unknown or out of range.
        """
        known = [setting.name for setting in fields(cls)]
        for name in settings:
            if name not in known:
                raise PgdiffError(f"`synthetic` has no '{name}'. It must be {nearest(name, known)}")
        return cls(**settings)


class _AnyActor:
    """A stand-in for an actor, to check the settings of a guide."""

    def action(self, observation: Tensor) -> Tensor:
        raise NotImplementedError

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        raise NotImplementedError
