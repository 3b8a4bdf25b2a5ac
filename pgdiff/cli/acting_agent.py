"""The agent of a run that acts in the planner's place, for `pgdiff evaluate`."""

from typing import Any

import numpy as np

from pgdiff.agents.offline import OfflineAgent
from pgdiff.planning.from_run import MODEL, RunInfo, StageRecord
from pgdiff.registry import registered
from pgdiff.trajectory import Plan
from pgdiff.validation import PgdiffError, check_in, check_positive_int


class ActingAgent:
    """A member of an agent that a stage has learned, with what `evaluate` says of it.

    Args:
        agent: the member.
        settings: for the table and the file of an evaluation; "agent" is its name.
    """

    stride = 1

    def __init__(self, agent: OfflineAgent, settings: dict[str, Any]) -> None:
        self.agent, self.settings = agent, settings
        self.observation_space, self.action_space = agent.observation_space, agent.action_space
        self._acted: list[list[np.ndarray]] = []
        self._first = 0  # episode of the batch

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """See `pgdiff.agents.offline.OfflineAgent.predict`; actions of a batch are kept."""
        actions, state = self.agent.predict(observation, state, episode_start, deterministic)
        if episode_start is not None and np.all(episode_start):
            self._first = len(self._acted)
            self._acted += [[] for _ in actions]
        for kept, action in zip(self._acted[self._first :], actions, strict=True):
            kept.append(np.array(action))
        return actions, state

    def actions(self, episode: int, *, steps: int) -> list[np.ndarray]:
        """Return the actions of the first `steps` steps of an episode."""
        return self._acted[episode][:steps] if episode < len(self._acted) else []

    def plans(self, episode: int, *, steps: int) -> list[Plan] | None:
        """Return None: an agent makes no plans."""
        return None

    def followed(self, episode: int, *, steps: int) -> list[tuple[int, np.ndarray]]:
        """Return no plan."""
        return []


def acting_agent(settings: dict[str, Any], run: RunInfo) -> ActingAgent | None:
    """Return the agent that is to act; None where a planner is.

    That is the agent that `stage` names, else the only one of a run that cannot plan.

    Raises:
        PgdiffError: no such agent; a run that has neither a model to plan with nor one agent;
            settings of a planner or of guides for a run that has no planner.
    """
    agents = [stage for stage in run.stages if _is_agent(stage)]
    chosen = settings["stage"]
    if chosen is None and _plans(run):
        if settings["member"] is not None:
            raise PgdiffError(f"`stage` must be given with `member`. Got {settings['member']}.")
        return None
    record = _chosen(run, agents, chosen)
    _check_no_planner(settings, record)
    agent = run.load(record.name, device=settings["device"])
    assert isinstance(agent, OfflineAgent)
    member = settings["member"] or 0
    if check_positive_int("member", member, minimum=0) >= agent.members:
        raise PgdiffError(
            f"`member` must be below {agent.members}, the members of the stage '{record.name}' of "
            f"'{run.path}'. Got {member}."
        )
    said = {
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
    return ActingAgent(agent.member(member), said)


def _is_agent(stage: StageRecord) -> bool:
    learner = registered("learner").get(stage.learner)
    return learner is not None and issubclass(learner, OfflineAgent)


def _plans(run: RunInfo) -> bool:
    """Whether a run has a model of plans: one that has learned to go on from an observation."""
    model = run.stage(MODEL)
    return model is not None and list(model.arguments.get("known") or ["start"]) != ["none"]


def _chosen(run: RunInfo, agents: list[StageRecord], chosen: Any) -> StageRecord:
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
    held = ", ".join(f"{stage.name} ({stage.learner})" for stage in run.stages)
    raise PgdiffError(
        f"`run` must hold a model that plans or an agent that acts. '{run.path}' has {held}. Train "
        "one, for example with recipe=strided or recipe=iql."
    )


def _check_no_planner(settings: dict[str, Any], record: StageRecord) -> None:
    """Refuse settings that have no effect where an agent acts."""
    given = [
        f"{group}.{key}"
        for group in ("planner", "guide")
        for key, value in settings[group].items()
        if value is not None and key != "name"
    ]
    if settings["guide"]["name"] != "run":
        given.append(f"guide={settings['guide']['name']}")
    if given:
        raise PgdiffError(
            f"`{given[0]}` must be left out where an agent acts, here the stage '{record.name}', "
            "which makes no plans."
        )
    if settings["ablation"]:
        raise PgdiffError(
            f"`ablation` must be false where an agent acts, here the stage '{record.name}', which "
            "makes no plans. Got true."
        )
