"""Guides of a policy: closed forms, moved fields, refused inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judges import AGENTS, EPISODES, Smooth, live
from torch import Tensor, nn
from toys import fit, flat_model, flat_planner, generator, record, tiny_model

from pgdiff import Segment, TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.guides import Guide, Policy, bind

ACTIONS, CHUNKS = ("observations", "actions"), ("action_chunks", "observations")
LEVEL = torch.zeros(1, 6)


def segment(*, chunks: bool = False) -> Segment:
    size = 6 if chunks else 2
    held = torch.randn(3, 6, size, generator=generator(1))
    observations = torch.randn(3, 6, 4, generator=generator(0))
    name = "action_chunks" if chunks else "actions"
    return Segment(observations=observations, stride=3, **{name: held})


class Still:
    """An actor without a network, which records its inputs."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def log_prob(
        self, observation: Tensor, action: Tensor, *, limit: float = 0.5, deviation: Any = None
    ) -> Tensor:
        self.options.append({"limit": limit, "deviation": deviation})
        return -action.square().sum(dim=-1)


def test_it_is_the_sum_of_log_densities_over_the_temperature() -> None:
    seen, agent = segment(), Smooth()
    each = agent.log_prob(seen.observations, seen.actions)
    assert each.shape == (3, 6) and isinstance(Policy(agent), Guide)
    for temperature in (1.0, 0.25):
        objective = Policy(agent, temperature=temperature).objective(seen, LEVEL)
        torch.testing.assert_close(objective, each.sum(dim=1) / temperature)


def test_of_a_chunk_it_sees_the_first_action() -> None:
    seen, agent = segment(chunks=True), Smooth()
    assert seen.action_chunks is not None
    first = agent.log_prob(seen.observations, seen.action_chunks[..., :2])
    torch.testing.assert_close(Policy(agent).objective(seen, LEVEL), first.sum(dim=1))


@pytest.mark.parametrize("fields", [ACTIONS, CHUNKS])
def test_by_default_it_moves_only_actions(fields: tuple[str, ...]) -> None:
    model = tiny_model(EPISODES, fields=fields)
    mask = bind(Policy(Smooth()), model).mask
    assert mask is not None and (mask[:, model.codec.layout.slices["observations"]] == 0).all()
    held = next(name for name in fields if name != "observations")
    assert (mask[:, model.codec.layout.slices[held]] == 1).all()
    assert bind(Policy(Smooth(), fields=None), model).mask is None


def test_settings_are_handed_to_agents_that_have_them() -> None:
    agent = Still()
    Policy(agent).objective(segment(), LEVEL)
    Policy(agent, limit=0.9, deviation=2.0).objective(segment(), LEVEL)
    assert agent.options == [{"limit": 0.99, "deviation": None}, {"limit": 0.9, "deviation": 2.0}]


def test_files_and_live_models_are_agents(tmp_path: Path) -> None:
    model, iql = live("SAC"), AGENTS["IQL"]()
    model.save(tmp_path / "sac.zip")
    iql.save_pretrained(tmp_path / "iql")
    for agent, place in ((model, "sac.zip"), (model, "sac"), (iql, "iql")):
        expected = Policy(agent).objective(segment(), LEVEL)
        result = Policy(str(tmp_path / place)).objective(segment(), LEVEL)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_it_goes_where_the_segment_is() -> None:
    held = torch.zeros(2, 6, 2, device="meta")
    seen = Segment(observations=torch.zeros(2, 6, 4, device="meta"), actions=held, stride=3)
    agent = Smooth()
    assert Policy(agent).objective(seen, LEVEL).device.type == "meta"
    assert next(agent.parameters()).device.type == "meta"


@pytest.fixture(scope="module")
def trained() -> TrajectoryDiffusion:
    """Return a briefly trained model; the recorded actions are uniform in [-1, 1]."""
    model = flat_model(
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
        ({"gradient_at": "denoiser"}, (0.0, 1.0, 4.0)),
        (
            {"gradient_at": "x", "rule": "policy_guided", "scale_schedule": "sine_bump"},
            (0.0, 0.1, 0.3),
        ),
    ],
    ids=str,
)
def test_plans_approach_the_policys_actions(
    trained: TrajectoryDiffusion, options: dict[str, Any], scales: tuple[float, ...]
) -> None:
    """A larger scale makes the actions of all candidates likelier."""
    result = []
    for scale in scales:
        guide = Policy(Smooth(), scale=scale, **options)
        planner = flat_planner(trained, guides=[guide], candidates=32, steps=8)
        result.append(float(planner.plan(np.zeros(4)).scores.mean()))
    print(f"\n{options}: log-density of plans at scales {scales}: {result}")
    assert result[0] < result[1] < result[2]
    assert result[2] > result[0] / 2, "halfway to the most likely actions, whose log-density is 0"


# -------------------------------------------------------------------------------------- bad input


class Faulty(Smooth):
    """An actor with faulty densities."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        result: Tensor = self.spoil(super().log_prob(observation, action))
        return result


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        (Smooth, {"scale": float("nan")}, r"`scale` must be a number in \[0.0, inf\]. Got nan"),
        (Smooth, {"scale": -1.0}, r"`scale` must be a number in \[0.0, inf\]. Got -1.0"),
        (Smooth, {"temperature": 0.0}, r"`temperature` must be a number in \(0.0, inf\]. Got 0.0"),
        (Smooth, {"limit": 0.9}, "`limit` must be None for this agent.* Got 0.9, and a Smooth"),
        (Smooth, {"deviation": 1.0}, "`deviation` must be None for this agent"),
        (Still, {"limit": 1.0}, r"`limit` must be a number in \(0, 1\). Got 1.0"),
        (Still, {"deviation": 0.0}, r"`deviation` must be a number in \(0.0, inf\]"),
        (Smooth, {"fields": ("action",)}, "`fields` must be .* Did you mean 'actions'"),
        (Smooth, {"gradient_at": "x1"}, "`gradient_at` must be one of"),
        (Smooth, {"rule": "scores"}, "`guidance_rule` must be .* Did you mean 'score'"),
        (lambda: nn.Linear(4, 2), {}, r"`agent` must be the path .* method log_prob. Got a Linear"),
        (lambda: Smooth, {}, "`agent` must be the path of an agent.* Got a type"),
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
        flat_planner(tiny_model(EPISODES), guides=[guide])
    wide = tiny_model(EPISODES, fields=("observations", "action_chunks"), stride=2)
    flat_planner(wide, guides=[guide])
    narrow = EPISODES.observations[:, :3], EPISODES.actions[:, :1]
    more = record(*narrow, EPISODES.rewards, lengths=[480])
    message = r"`mine` must be of the model's task. .* \(4,\) .* \(2,\), .* \(3,\) .* \(1,\)"
    with pytest.raises(PgdiffError, match=message):
        flat_planner(tiny_model(more, fields=ACTIONS), guides=[guide])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p: p[..., None],
            r"`log_prob` .* 'policy' must return .* \[..., 2, 6\]. Got \[2",
        ),
        (lambda p: p.sum(), r"`log_prob` of the agent of 'policy' must return .* Got \[\]"),
        (lambda p: p.detach().numpy(), "`log_prob` of the agent .* Got ndarray"),
        (lambda p: p / 0, "The objective of 'policy' must be finite. Got -inf for trajectory 0"),
        (lambda p: p.detach(), "The objective of 'policy' must be differentiable"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_densities_are_named(spoil: Any, message: str) -> None:
    model = tiny_model(EPISODES, fields=ACTIONS)
    planner = flat_planner(model, guides=[Policy(Faulty(spoil))], candidates=2, steps=2)
    with pytest.raises(PgdiffError, match=message):
        planner.plan(np.zeros(4))


def test_tokens_and_segments_must_fit() -> None:
    model = tiny_model(EPISODES, fields=ACTIONS)
    with pytest.raises(
        PgdiffError, match=r"`token_weights` of the guide 'policy' must be 6 .* Got 2"
    ):
        flat_planner(model, guides=[Policy(Smooth(), token_weights=(1.0, 0.0))])
    bare = Segment(observations=torch.zeros(2, 6, 4), stride=3)
    with pytest.raises(PgdiffError, match="`segment` must have actions for 'policy'"):
        Policy(Smooth()).objective(bare, LEVEL)


def test_of_previous_actions_it_sees_the_first_that_leads_to_the_next() -> None:
    """The action at the last token is unknown."""
    model, agent = tiny_model(EPISODES, fields=("observations", "previous_actions")), Smooth()
    Policy(agent).check_model(model)
    before = torch.randn(3, 6, 6, generator=generator(1))
    seen = Segment(observations=segment().observations, previous_actions=before, stride=3)
    done = agent.log_prob(seen.observations[:, :-1], before[:, 1:, :2])
    torch.testing.assert_close(Policy(agent).objective(seen, LEVEL), done.sum(dim=1))
    assert seen.every_action is not None and seen.every_action.shape == (3, 15, 2)
    assert torch.equal(seen.every_action[:, 3:6].flatten(1), before[:, 2])
