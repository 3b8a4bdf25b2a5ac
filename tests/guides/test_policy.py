"""A policy's density as a guide: what it counts, what it moves, what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judges import AGENTS, EPISODES, Own, live
from torch import Tensor, nn
from toys import fit, generator, record, tiny_model

from pgdiff import Planner, Segment, TrajectoryDiffusion
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import Guide, Policy, bind
from pgdiff.validation import PgdiffError

ACTIONS, CHUNKS = ("observations", "actions"), ("action_chunks", "observations")
LEVEL = torch.zeros(1, 6)


def segment(*, chunks: bool = False) -> Segment:
    size = 6 if chunks else 2
    held = torch.randn(3, 6, size, generator=generator(1))
    observations = torch.randn(3, 6, 4, generator=generator(0))
    name = "action_chunks" if chunks else "actions"
    return Segment(observations=observations, stride=3, **{name: held})


class Still:
    """An actor that is no network, and notes how it is asked."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def log_prob(
        self, observation: Tensor, action: Tensor, *, limit: float = 0.5, deviation: Any = None
    ) -> Tensor:
        self.options.append({"limit": limit, "deviation": deviation})
        return -action.square().sum(dim=-1)


def test_it_is_the_sum_of_log_densities_over_the_temperature() -> None:
    seen, agent = segment(), Own()
    each = agent.log_prob(seen.observations, seen.actions)
    assert each.shape == (3, 6) and isinstance(Policy(agent), Guide)
    for temperature in (1.0, 0.25):
        energy = Policy(agent, temperature=temperature).energy(seen, LEVEL)
        torch.testing.assert_close(energy, each.sum(dim=1) / temperature)


def test_of_a_chunk_it_sees_the_first_action() -> None:
    seen, agent = segment(chunks=True), Own()
    assert seen.action_chunks is not None
    first = agent.log_prob(seen.observations, seen.action_chunks[..., :2])
    torch.testing.assert_close(Policy(agent).energy(seen, LEVEL), first.sum(dim=1))


@pytest.mark.parametrize("fields", [ACTIONS, CHUNKS])
def test_it_moves_actions_alone_unless_told_otherwise(fields: tuple[str, ...]) -> None:
    model = tiny_model(EPISODES, fields=fields)
    mask = bind(Policy(Own()), model).mask
    assert mask is not None and (mask[:, model.layout.slices["observations"]] == 0).all()
    held = next(name for name in fields if name != "observations")
    assert (mask[:, model.layout.slices[held]] == 1).all()
    assert bind(Policy(Own(), fields=None), model).mask is None


def test_settings_are_handed_to_agents_that_have_them() -> None:
    agent = Still()
    Policy(agent).energy(segment(), LEVEL)
    Policy(agent, limit=0.9, deviation=2.0).energy(segment(), LEVEL)
    assert agent.options == [{"limit": 0.99, "deviation": None}, {"limit": 0.9, "deviation": 2.0}]


def test_files_and_live_models_are_agents(tmp_path: Path) -> None:
    model, iql = live("SAC"), AGENTS["IQL"]()
    model.save(tmp_path / "sac.zip")
    iql.save_pretrained(tmp_path / "iql")
    for agent, place in ((model, "sac.zip"), (model, "sac"), (iql, "iql")):
        expected = Policy(agent).energy(segment(), LEVEL)
        found = Policy(str(tmp_path / place)).energy(segment(), LEVEL)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_goes_where_the_segment_is() -> None:
    held = torch.zeros(2, 6, 2, device="meta")
    seen = Segment(observations=torch.zeros(2, 6, 4, device="meta"), actions=held, stride=3)
    agent = Own()
    assert Policy(agent).energy(seen, LEVEL).device.type == "meta"
    assert next(agent.parameters()).device.type == "meta"


@pytest.fixture(scope="module")
def trained() -> TrajectoryDiffusion:
    """A model that had seconds; the recorded actions are uniform in [-1, 1]."""
    model = TrajectoryDiffusion.from_episodes(
        EPISODES,
        horizon=6,
        stride=3,
        fields=ACTIONS,
        denoiser=TransformerConfig(width=32, depth=1),
    )
    return fit(model, EPISODES, steps=300)


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({}, (0.0, 1.0, 4.0)),
        ({"at": "denoiser"}, (0.0, 1.0, 4.0)),
        ({"at": "x", "rule": "policy_guided", "schedule": "sine_bump"}, (0.0, 0.1, 0.3)),
    ],
    ids=str,
)
def test_plans_come_to_be_the_policys(
    trained: TrajectoryDiffusion, options: dict[str, Any], scales: tuple[float, ...]
) -> None:
    """The more scale, the likelier are the actions of all candidates."""
    found = []
    for scale in scales:
        guide = Policy(Own(), scale=scale, **options)
        planner = Planner(trained, guides=[guide], candidates=32, steps=8)
        found.append(float(planner.plan(np.zeros(4)).scores.mean()))
    print(f"\n{options}: log-density of plans at scales {scales}: {found}")
    assert found[0] < found[1] < found[2]
    assert found[2] > found[0] / 2, "halfway to the most likely actions, whose log-density is 0"


# -------------------------------------------------------------------------------------- bad input


class Told(Own):
    """An actor whose densities are spoilt."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        found: Tensor = self.spoil(super().log_prob(observation, action))
        return found


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        (Own, {"scale": float("nan")}, r"`scale` must be a number in \[0.0, inf\]. Got nan"),
        (Own, {"scale": -1.0}, r"`scale` must be a number in \[0.0, inf\]. Got -1.0"),
        (Own, {"temperature": 0.0}, r"`temperature` must be a number in \(0.0, inf\]. Got 0.0"),
        (Own, {"limit": 0.9}, "`limit` must be None for this agent.* Got 0.9, and a Own"),
        (Own, {"deviation": 1.0}, "`deviation` must be None for this agent"),
        (Still, {"limit": 1.0}, r"`limit` must be a number in \(0, 1\). Got 1.0"),
        (Still, {"deviation": 0.0}, r"`deviation` must be a number in \(0.0, inf\]"),
        (Own, {"fields": ("action",)}, "`fields` must be .* Did you mean 'actions'"),
        (Own, {"at": "x1"}, "`at` must be one of"),
        (Own, {"rule": "scores"}, "`guidance_rule` must be .* Did you mean 'score'"),
        (lambda: nn.Linear(4, 2), {}, r"`agent` must be the path .* method log_prob. Got a Linear"),
        (lambda: Own, {}, "`agent` must be the path of an agent.* Got a type"),
        (lambda: "nowhere.zip", {}, "'nowhere.zip' does not exist"),
    ],
)
def test_bad_settings_are_named(agent: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PgdiffError, match=message):
        Policy(agent(), **options)


@pytest.mark.parametrize("name", ["SAC", "PPO", "IQL"])
def test_a_model_of_another_task_is_refused(name: str) -> None:
    guide = Policy(AGENTS[name](), name="mine")
    with pytest.raises(PgdiffError, match=r"`fields` of the model must hold 'actions' .* 'mine'"):
        Planner(tiny_model(EPISODES), guides=[guide])
    wide = tiny_model(EPISODES, fields=("observations", "action_chunks"), stride=2)
    Planner(wide, guides=[guide])
    narrow = EPISODES.observations[:, :3], EPISODES.actions[:, :1]
    more = record(*narrow, EPISODES.rewards, lengths=[480])
    message = r"`mine` must be of the model's task. .* \(4,\) .* \(2,\), .* \(3,\) .* \(1,\)"
    with pytest.raises(PgdiffError, match=message):
        Planner(tiny_model(more, fields=ACTIONS), guides=[guide])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[..., None], r"`log_prob` .* 'policy' must give .* \[..., 2, 6\]. Got \[2, 6,"),
        (lambda p: p.sum(), r"`log_prob` of the agent of 'policy' must give .* Got \[\]"),
        (lambda p: p.detach().numpy(), "`log_prob` of the agent .* Got ndarray"),
        (lambda p: p / 0, "The energy of 'policy' must be finite. Got -inf for trajectory 0"),
        (lambda p: p.detach(), "The energy of 'policy' must be differentiable"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_densities_are_named(spoil: Any, message: str) -> None:
    model = tiny_model(EPISODES, fields=ACTIONS)
    planner = Planner(model, guides=[Policy(Told(spoil))], candidates=2, steps=2)
    with pytest.raises(PgdiffError, match=message):
        planner.plan(np.zeros(4))


def test_tokens_and_segments_must_fit() -> None:
    model = tiny_model(EPISODES, fields=ACTIONS)
    with pytest.raises(PgdiffError, match=r"`tokens` of the guide 'policy' must be 6 .* Got 2"):
        Planner(model, guides=[Policy(Own(), tokens=(1.0, 0.0))])
    bare = Segment(observations=torch.zeros(2, 6, 4), stride=3)
    with pytest.raises(PgdiffError, match="`segment` must have actions for 'policy'"):
        Policy(Own()).energy(bare, LEVEL)


def test_of_previous_actions_it_sees_the_first_that_leads_to_the_next() -> None:
    """What is done at the last token is not told."""
    model, agent = tiny_model(EPISODES, fields=("observations", "previous_actions")), Own()
    Policy(agent).check_model(model)
    before = torch.randn(3, 6, 6, generator=generator(1))
    seen = Segment(observations=segment().observations, previous_actions=before, stride=3)
    done = agent.log_prob(seen.observations[:, :-1], before[:, 1:, :2])
    torch.testing.assert_close(Policy(agent).energy(seen, LEVEL), done.sum(dim=1))
    assert seen.every_action is not None and seen.every_action.shape == (3, 15, 2)
    assert torch.equal(seen.every_action[:, 3:6].flatten(1), before[:, 2])
