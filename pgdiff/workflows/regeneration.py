"""Policy-guided regeneration: an agent learns from data that its present policy steers."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pgdiff.agents import Actor
from pgdiff.agents.offline import OfflineAgent
from pgdiff.data import Episodes, join_episodes, load_episodes, write_hdf5
from pgdiff.data.cache import cache_root
from pgdiff.data.transitions import TransitionDataset
from pgdiff.guides import Guide
from pgdiff.model import TrajectoryDiffusion
from pgdiff.planning.guide_kinds import KINDS
from pgdiff.planning.settings import check_planner, planner_values
from pgdiff.synthesis import ShardFolder, ShardSampler, TaskEnds
from pgdiff.synthesis.mixture import MixedTransitions
from pgdiff.training import Callback, Learner, Trainer
from pgdiff.validation import PgdiffError, check_positive_int, check_range, nearest

POLICY = KINDS["policy"]


@dataclass(frozen=True, kw_only=True)
class Regeneration:
    """How synthetic experience is made anew while an agent learns.

    Jackson et al. (2024): the first set is unguided; every 10,000 updates one of 8,192 trajectories
    is steered by the present policy; 240 of 256 examples are synthetic. Here each member of the
    agent has a set of its own.

    Attributes:
        every: updates between two sets.
        trajectories: of a set, up to what fills equal batches.
        sets: the newest so many are learned from, and so many are made before the first update.
            Ten small ones follow the policy more closely than one of the same size in all.
        share: of a batch that is synthetic, in [0, 1].
        guide: settings of `pgdiff.guides.Policy` as a run has them, such as scale, or rule by its
            name; None in it is the class's own. None for no guide at all.
        sampling: "steps", "solver", "spacing", "trust_region" of the sampler, as a planner has
            them.
        ends: id of an environment by whose rule trajectories end too, see `TaskEnds`; None for what
            the model draws alone.
        batch: trajectories that are sampled at once, at most.
        compile: whether the model's networks are compiled.
    """

    every: int = 10_000
    trajectories: int = 1024
    sets: int = 1
    share: float = 240 / 256
    guide: Mapping[str, Any] | None = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    ends: str | None = None
    batch: int = 256
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("every", "trajectories", "sets", "batch"):
            check_positive_int(name, getattr(self, name))
        check_range("share", self.share, low=0.0, high=1.0)
        if not isinstance(self.compile, bool):
            raise PgdiffError(f"`compile` must be true or false. Got {self.compile!r}.")
        for name, given in (("guide", self.guide or {}), ("sampling", self.sampling)):
            if not isinstance(given, Mapping):
                raise PgdiffError(f"`{name}` must be settings by name. Got {given!r}.")
        known = ("steps", "solver", "spacing", "trust_region")
        for name in self.sampling:
            if name not in known:
                raise PgdiffError(f"`sampling` has no '{name}'. It must be {nearest(name, known)}")
        check_planner(self.sampling)
        for name in ("agent", "stage", "kind", "vec_normalize"):
            if name in self._guide:
                raise PgdiffError(
                    f"`guide` must not have '{name}': the agent that learns is what steers."
                )
        POLICY.check_settings("policy", self._guide)
        self.guides()
        self.rule()

    def guides(self, agent: Actor | None = None) -> tuple[Guide, ...]:
        """What steers towards an agent's policy; nothing where `guide` is None.

        Args:
            agent: None for a stand-in, which is enough to check settings.

        Raises:
            PgdiffError: a setting that is out of its range.
        """
        if self.guide is None:
            return ()
        return (POLICY.build("policy", _Anyone() if agent is None else agent, self._guide),)

    def rule(self) -> TaskEnds | None:
        """By which trajectories end, beside the terminals drawn."""
        return None if self.ends is None else TaskEnds(self.ends)

    @property
    def _guide(self) -> dict[str, Any]:
        return {key: value for key, value in (self.guide or {}).items() if value is not None}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Regeneration":
        """Make it from plain values.

        Raises:
            PgdiffError: an unknown setting, or one out of its range.
        """
        known = [own.name for own in fields(cls)]
        for name in settings:
            if name not in known:
                raise PgdiffError(f"`synthetic` has no '{name}'. It must be {nearest(name, known)}")
        return cls(**settings)


class _Anyone:
    """An actor, for checking the settings of what will steer."""

    def action(self, observation: Tensor) -> Tensor:
        raise NotImplementedError

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        raise NotImplementedError


class Regenerate(Callback):
    """Makes the sets, and hands them to the learner's batches; a callback of the trainer.

    A set depends on the seed, the update and the policies alone. Sets are kept in `folder` as long
    as a checkpoint may need them.

    Args:
        model: generates transitions.
        agent: learns; its members steer.
        settings: see `Regeneration`.
        folder: for the sets, a file for each and each member.
        seed: of all noise.

    Raises:
        PgdiffError: a model that generates no transitions, or an agent that no set could steer.
    """

    def __init__(
        self,
        model: TrajectoryDiffusion,
        agent: OfflineAgent,
        *,
        settings: Regeneration,
        folder: Path,
        seed: int,
    ) -> None:
        self.model, self.agent, self.settings = model, agent, settings
        self.folder, self.seed = folder, seed
        self._mixed: MixedTransitions | None = None
        self._trainer: Trainer | None = None
        self._sampler(agent)  # the clearest error, before anything is trained

    def __deepcopy__(self, memo: dict[int, Any]) -> "Regenerate":
        """One for all: an agent's average copies the agent, not the model that it learns from."""
        return self

    def source(self, episodes: Episodes) -> MixedTransitions:
        """The batches of a training; the agent's `dataset` in its place.

        The first ones that are asked for are learned from; others, of held-out episodes, stay real.
        """
        real = TransitionDataset(episodes, copies=self.agent.members)
        mixed = MixedTransitions(real, share=self.settings.share)
        if self._mixed is None:
            self._mixed = mixed
        return mixed

    def on_start(self, trainer: Trainer, learner: Learner) -> None:
        """Make the first sets, or read those that the training was at.

        Raises:
            PgdiffError: sets that are gone, or that another model made.
        """
        model = self._sampler(None).settings()["model"]
        ShardFolder(self.folder).begin({"model": model})
        self._trainer = trainer
        # A training that was cut off after its last update is at the sets of that one.
        first = min(trainer.step, trainer.steps - 1) // self.settings.every
        numbers = range(first, first + self.settings.sets)
        if not first:
            for number in numbers:
                self._make(number)
        for file in (file for number in numbers for file in self._files(number)):
            if not file.is_file():
                raise PgdiffError(
                    f"'{file}' must be there to go on from update {trainer.step}: the policy that "
                    "steered it is gone. Train the stage anew: recipe=pgd_agent base=RUN "
                    "overwrite=true."
                )
        self._take(numbers)

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        """Make a set, where it is time to."""
        assert self._trainer is not None
        if step % self.settings.every or step >= self._trainer.steps:
            return
        first = step // self.settings.every
        self._make(first + self.settings.sets - 1)
        self._take(range(first, first + self.settings.sets))
        for old in self.folder.glob("*.hdf5"):
            if int(old.stem.partition("-")[0]) < self._oldest(step):
                shutil.rmtree(cache_root(old, None), ignore_errors=True)
                old.unlink()

    def _make(self, number: int) -> None:
        """Make a set for each member; the first `sets` are unguided."""
        guided = number >= self.settings.sets
        for member, file in enumerate(self._files(number)):
            sampler = self._sampler(self.agent.member(member).eval() if guided else None)
            count = self._batches
            first = (number * self.agent.members + member) * count
            shards = [sampler.shard(first + batch)[0] for batch in range(count)]
            rows = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
            write_hdf5(file, rows)

    def _take(self, numbers: range) -> None:
        """Learn from these sets from now on."""
        assert self._mixed is not None
        members = zip(*(self._files(number) for number in numbers), strict=True)
        sets = [[load_episodes(file) for file in files] for files in members]
        self._mixed.replace([join_episodes(some) if len(some) > 1 else some[0] for some in sets])

    def _oldest(self, step: int) -> int:
        """Number of the oldest set that a training may still go on with, from a checkpoint."""
        assert self._trainer is not None
        between = self._trainer.checkpoint_every
        if not between:
            return step // self.settings.every
        # In this update none has been written yet.
        last = (step - 1) // between * between - (self._trainer.keep - 1) * between
        return max(last, 0) // self.settings.every

    @property
    def _batches(self) -> int:
        return -(-self.settings.trajectories // self.settings.batch)

    def _files(self, number: int) -> list[Path]:
        return [self.folder / f"{number:06d}-{member}.hdf5" for member in range(self.agent.members)]

    def _sampler(self, agent: OfflineAgent | None) -> ShardSampler:
        return ShardSampler(
            model=self.model,
            guides=() if agent is None else self.settings.guides(agent),
            seed=self.seed,
            batch=-(-self.settings.trajectories // self._batches),
            ends=self.settings.rule(),
            compile=self.settings.compile,
            **planner_values(dict(self.settings.sampling)),
        )
