"""Agents of a run that act instead of its planner, for `pgdiff evaluate`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgdiff.agents.offline import OfflineAgent
from pgdiff.core.registry import registered
from pgdiff.core.validation import PgdiffError, check_in, check_positive_int
from pgdiff.runs.run import MODEL, RunInfo, StageRecord
from pgdiff.trajectory import Plan


class ActingAgent:
    """A member of the agent of a stage, with its actions recorded for the pictures.

    Args:
        agent: the member.
        settings: settings in the file of an evaluation; "agent" is the name in the table.
    """

    stride = 1

    def __init__(self, agent: OfflineAgent, settings: dict[str, Any]) -> None:
        self.agent, self.settings = agent, settings
        self.observation_space, self.action_space = agent.observation_space, agent.action_space
        self._acted: list[list[np.ndarray]] = []
        self._first = 0  # first episode of the present batch

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Return actions as `pgdiff.agents.offline.OfflineAgent.predict` does, and record them."""
        actions, state = self.agent.predict(observation, state, episode_start, deterministic)
        if episode_start is not None and np.all(episode_start):
            self._first = len(self._acted)
            self._acted += [[] for _ in actions]
        for episode, action in zip(self._acted[self._first :], actions, strict=True):
            episode.append(np.array(action))
        return actions, state

    def actions(self, episode: int, *, steps: int) -> list[np.ndarray]:
        """Return the actions of the first `steps` steps of an episode."""
        return self._acted[episode][:steps] if episode < len(self._acted) else []

    def plans(self, episode: int, *, steps: int) -> list[Plan] | None:
        """Return None: an agent makes no plans."""
        return None

    def followed(self, episode: int, *, steps: int) -> list[tuple[int, np.ndarray]]:
        """Return an empty list: an agent makes no plans."""
        return []


def acting_agent(settings: dict[str, Any], run: RunInfo) -> ActingAgent | None:
    """Return the agent that acts; None if the planner of the run acts.

    The agent is the one that `stage` names, or else the only agent of a run that cannot plan.

    Raises:
        PgdiffError: the agent does not exist; the run has neither a model that plans nor exactly
            one agent; or settings of a planner or of guides are given for an agent.
    """
    agents = [stage for stage in run.stages if _is_agent(stage)]
    chosen = settings["stage"]
    if chosen is None and _has_planner(run):
        if settings["member"] is not None:
            raise PgdiffError(f"`stage` must be given with `member`. Got {settings['member']}.")
        return None
    record = _select_stage(run, agents, chosen)
    _check_no_planner(settings, record)
    agent = run.load(record.name, device=settings["device"])
    assert isinstance(agent, OfflineAgent)
    member = settings["member"] or 0
    if check_positive_int("member", member, minimum=0) >= agent.members:
        raise PgdiffError(
            f"`member` must be below {agent.members}, the number of members of the stage "
            f"'{record.name}' of '{run.path}'. Got {member}."
        )
    report = {
        "agent": f"{run.recipe}, {record.name}, member {member} of {agent.members}",
        "run": str(run.path),
        "recipe": run.recipe,
        "training_seed": run.seed,
        "run_version": run.version,
        "stage": record.name,
        "learner": record.learner,
        "member": member,
        "guide": None,
        "device": str(agent.device),
    }
    return ActingAgent(agent.member(member), report)


def _is_agent(stage: StageRecord) -> bool:
    learner = registered("learner").get(stage.learner)
    return learner is not None and issubclass(learner, OfflineAgent)


def _has_planner(run: RunInfo) -> bool:
    """Return whether a run has a model that can continue from an observation."""
    model = run.stage(MODEL)
    return model is not None and _patterns(model.arguments) != ["none"]


def _select_stage(run: RunInfo, agents: list[StageRecord], chosen: Any) -> StageRecord:
    """Return the agent's stage that is chosen, or the only one."""
    names = [stage.name for stage in agents]
    if chosen is not None:
        if not names:
            raise PgdiffError(
                f"`stage` must be left out, because '{run.path}' has no agent. Got '{chosen}'."
            )
        return agents[names.index(check_in("stage", str(chosen), names))]
    if len(agents) == 1:
        return agents[0]
    if agents:
        raise PgdiffError(
            f"`stage` must be given for '{run.path}', which has several agents: one of "
            f"{', '.join(names)}. Got null."
        )
    present = ", ".join(f"{stage.name} ({stage.learner})" for stage in run.stages)
    raise PgdiffError(
        f"`run` must hold a model that plans or an agent that acts. '{run.path}' has {present}. "
        "Train one, for example with recipe=strided or recipe=iql."
    )


def _check_no_planner(settings: dict[str, Any], record: StageRecord) -> None:
    """Raise if settings are given that have no effect on an agent."""
    given = [
        f"{group}.{key}"
        for group in ("planner", "guide")
        for key, value in settings[group].items()
        if key != "name" and not (key == "also" and value is None)
    ]
    if settings["guide"]["name"] != "run":
        given.append(f"guide={settings['guide']['name']}")
    if given:
        raise PgdiffError(
            f"`{given[0]}` must be left out when an agent acts. The agent of the stage "
            f"'{record.name}' makes no plans."
        )
    if settings["ablation"]:
        raise PgdiffError(
            "`ablation` must be false when an agent acts, got true. The agent of the stage "
            f"'{record.name}' makes no plans."
        )


def _patterns(arguments: Mapping[str, Any]) -> list[str]:
    """Return the in-painting patterns of a model's stage."""
    return list((arguments.get("inpainting") or {}).get("patterns") or ["start"])
