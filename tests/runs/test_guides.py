"""Guides of run folders by plain settings: kinds, stages and agents, several at once, refusals."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor
from toys import flat_planner, record, stir, tiny_model, walk

from pgdiff import SegmentValue, TransitionValue
from pgdiff.agents import IQL, TD3BC, Agent, Cloning
from pgdiff.core.pretrained import seeded_torch
from pgdiff.core.validation import PgdiffError
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import PolicyGuidedRule, Power, Score, SineBump
from pgdiff.guides import Critic, Goal, Policy, Return, Sum, Value
from pgdiff.runs import load_planner
from pgdiff.runs.folders import write_run
from pgdiff.runs.guides import check_guide, run_guides
from pgdiff.runs.run import RunInfo, StageRecord, read_run
from pgdiff.testing import check_guide as check_laws

EPISODES = walk()
SMALL = {"members": 2, "width": 16}
OBSERVATION = np.float32([0.3, -0.2, 0.1, 0.0])
GUIDES: dict[str, dict[str, Any]] = {
    "value": {"scale": 0.02, "transform": "log", "td_lambda": 0.7},
    "mine": {"name": "policy", "agent": {"stage": "iql"}, "scale": 0.3, "temperature": 0.5},
}


class Room(gym.Env):
    """Never entered: agents only ask for its spaces."""

    observation_space = Box(-np.inf, np.inf, (4,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def reset(self, **_: Any) -> Any:
        return np.ones(4, np.float32), {}


def networks(fields: tuple[str, ...]) -> dict[str, tuple[str, Any]]:
    """Stages by name: the learner's name, and one that has random weights."""
    offline = {"iql": IQL, "td3_bc": TD3BC, "cloning": Cloning}
    return {
        "model": ("trajectory_diffusion", tiny_model(EPISODES, fields=fields)),
        "value": (
            "transition_value",
            stir(TransitionValue.from_episodes(EPISODES, stride=3, width=16, depth=1)),
        ),
        "noisy": (
            "segment_value",
            stir(
                SegmentValue.from_episodes(
                    EPISODES, horizon=6, stride=3, denoiser=TransformerConfig(width=16, depth=1)
                )
            ),
        ),
        **{
            name: (name, stir(kind.from_episodes(EPISODES, **SMALL)))
            for name, kind in offline.items()
        },
    }


def made(folder: Path, fields: tuple[str, ...] = ("observations", "actions")) -> Path:
    """A run folder, as `train_stages` would have left it."""
    stages = networks(fields)
    for name, (_, network) in stages.items():
        network.save_pretrained(folder / name)
    info = RunInfo(
        path=folder,
        task={},
        recipe="",
        seed=0,
        data={},
        stages=tuple(
            StageRecord(
                name=name,
                learner=learner,
                arguments={"discount": 0.9} if name == "noisy" else {},
                trainer={},
                seed=0,
                finished=True,
            )
            for name, (learner, _) in stages.items()
        ),
        planner={"candidates": 3, "sampling": {"steps": 2}},
        guides=GUIDES,
        guide="value",
        version="0",
    )
    write_run(info)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model has no actions."""
    return made(tmp_path_factory.mktemp("bare"), fields=("observations",))


@pytest.fixture(scope="module")
def sac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with seeded_torch(seed=0):
        model = SAC("MlpPolicy", Room(), policy_kwargs={"net_arch": [8]}, device="cpu")
    path = tmp_path_factory.mktemp("agents") / "sac.zip"
    model.save(path)
    return path


def one(run: Path, guide: str | None = None, **settings: Any) -> Any:
    """The only guide: of this name and these settings, or the default one with these changes."""
    changes: Any = settings or None
    choice = changes if guide is None else {guide: settings} if settings else guide
    (found,) = load_planner(run, guide=choice).guides
    return found


# --------------------------------------------------------------------------- what a name stands for


def test_a_name_stands_for_a_guide(run: Path) -> None:
    cases: list[tuple[str | None, dict[str, Any], type, type | None]] = [
        (None, {}, Value, TransitionValue),
        ("value", {}, Value, TransitionValue),
        ("noisy", {}, Value, SegmentValue),
        ("iql", {}, Critic, IQL),
        ("td3_bc", {}, Critic, TD3BC),
        ("cloning", {}, Policy, Cloning),
        ("mine", {}, Policy, IQL),
        ("iql", {"name": "policy", "agent": "iql"}, Policy, IQL),
        ("critic", {"critic": "td3_bc"}, Critic, TD3BC),
        ("policy", {"agent": {"stage": "td3_bc"}}, Policy, TD3BC),
        ("policy", {"agent": {"run": str(run), "stage": "td3_bc"}}, Policy, TD3BC),
        ("policy", {"agent": {"agent": str(run / "td3_bc")}}, Policy, TD3BC),
        ("return", {"value": "noisy"}, Return, SegmentValue),
        ("return", {}, Return, None),
        ("mine", {"agent": "cloning"}, Policy, Cloning),
        ("other", {"name": "critic", "critic": {"stage": "iql"}}, Critic, IQL),
        ("goal", {"goal": [1.0, 2.0]}, Goal, None),
    ]
    info = read_run(run)
    for guide, settings, kind, part in cases:
        choice: Any = {guide: settings} if settings else guide
        (found,) = run_guides(info, choice, device="cpu")
        assert type(found) is kind and found.name == (guide or "value")
        held = [getattr(found, name, None) for name in ("value", "critic", "agent")]
        assert [type(each) for each in held if each is not None] == [part][: part is not None]


def test_none_and_no_default(run: Path, tmp_path: Path) -> None:
    assert load_planner(run, guide="none").guides == ()
    content = json.loads((run / "run.json").read_text()) | {"guide": None}
    for folder in ("model", "value"):
        (tmp_path / folder).symlink_to(run / folder)
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert load_planner(tmp_path).guides == ()
    assert one(tmp_path, "value").scale == 0.02
    with pytest.raises(PgdiffError, match="has no default guide"):
        load_planner(tmp_path, guide={"scale": 3.0})


def test_settings_are_the_runs_and_changes_to_them(run: Path) -> None:
    plain = one(run)
    assert (plain.scale, plain.transform, plain.td_lambda, plain.gradient_at) == (
        0.02,
        "log",
        0.7,
        "x0",
    )
    changed = one(run, scale=2.0, transform="none", gradient_at="denoiser", td_lambda=0.5)
    assert (changed.scale, changed.transform, changed.td_lambda) == (2.0, "none", 0.5)
    assert changed.gradient_at == "denoiser"
    mine = one(run, "mine")
    assert (mine.scale, mine.temperature, mine.fields) == (0.3, 0.5, ("actions",))
    assert type(load_planner(run, guide={"mine": None}).guides[0]) is Policy


def test_plain_values_stand_for_parts(run: Path, sac: Path) -> None:
    cases: list[tuple[str, Any, Any]] = [
        ("rule", "score", Score()),
        ("rule", {"name": "score", "floor": 0.1}, Score(floor=0.1)),
        ("scale_schedule", "sine_bump", SineBump()),
        ("scale_schedule", {"name": "power", "exponent": 2.0}, Power(exponent=2.0)),
        ("scale_schedule", None, None),
        ("normalize_gradient", "plan", "plan"),
        ("normalize_gradient", None, None),
        ("fields", None, None),
        ("fields", "actions", ("actions",)),
        ("fields", ["observations", "actions"], ("observations", "actions")),
        ("token_weights", [0, 1, 1, 1, 1, 2], (0.0, 1.0, 1.0, 1.0, 1.0, 2.0)),
        ("token_weights", None, None),
        ("score_weight", 2, 2.0),
        ("deviation", 0.5, 0.5),
    ]
    info, agent = read_run(run), SAC.load(sac, device="cpu")
    for key, plain, value in cases:
        choice = {"policy": {"agent": agent, key: plain}}
        (found,) = run_guides(info, choice, device="cpu")
        assert getattr(found, key) == value


def test_what_is_published_as_policy_guidance_can_be_said(run: Path) -> None:
    settings = {"agent": "iql", "rule": "policy_guided", "scale_schedule": "sine_bump"}
    found = one(run, "policy", gradient_at="x", scale=0.1, **settings)
    assert (found.gradient_at, found.rule, found.scale_schedule) == (
        "x",
        PolicyGuidedRule(),
        SineBump(),
    )


# ------------------------------------------------------------------------------------------- agents


class Own:
    """An actor that is not a network."""

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return -action.square().sum(dim=-1)


def test_agents_come_as_files_folders_models_and_objects(run: Path, sac: Path) -> None:
    live = SAC.load(sac, device="cpu")
    own = Own()
    assert one(run, "policy", agent=own).agent is own
    plans = [
        load_planner(run, guide={"policy": {"agent": agent, "scale": 0.05}}).plan(OBSERVATION)
        for agent in (sac, str(sac), live)
    ]
    for plan in plans[1:]:
        np.testing.assert_allclose(plan.candidates, plans[0].candidates, atol=1e-5)
    folder, stage = one(run, "critic", critic=run / "iql"), one(run, "critic", critic="iql")
    assert type(folder.critic) is type(stage.critic) is IQL
    # In place of the stage that the run says.
    assert isinstance(one(run, "mine", agent=sac).agent, Agent)


def test_statistics_of_a_zip_are_named_beside_it(run: Path, tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([Room]))
    env.obs_rms.mean += 3.0
    with seeded_torch(seed=0):
        PPO("MlpPolicy", env, n_steps=2, batch_size=2, device="cpu").save(tmp_path / "ppo.zip")
    env.save(tmp_path / "vec.pkl")
    files = {"agent": tmp_path / "ppo.zip", "vec_normalize": tmp_path / "vec.pkl"}
    found = one(run, "policy", agent=files)
    assert found.agent.vec_normalize.mean.tolist() == [3.0] * 4
    assert one(run, "policy", agent=files["agent"]).agent.vec_normalize is None


# -------------------------------------------------------------------------------------- composition


def test_several_guides_each_with_its_own_settings(run: Path, sac: Path) -> None:
    """Planning with them is planning with the guides made by hand."""
    chosen = {
        "value": {"scale": 0.01},
        "policy": {"agent": sac, "scale": 0.05, "gradient_at": "denoiser"},
    }
    planner = load_planner(run, guide=chosen)
    assert [(g.name, g.scale, g.gradient_at) for g in planner.guides] == [
        ("value", 0.01, "x0"),
        ("policy", 0.05, "denoiser"),
    ]
    info = read_run(run)
    by_hand = [
        Value(info.load("value"), name="value", scale=0.01, transform="log", td_lambda=0.7),
        Policy(sac, scale=0.05, gradient_at="denoiser"),
    ]
    other = flat_planner(info.load("model"), guides=by_hand, candidates=3, steps=2)
    plans = [each.plan(OBSERVATION, seed=4) for each in (planner, other)]
    np.testing.assert_array_equal(plans[0].candidates, plans[1].candidates)
    np.testing.assert_array_equal(plans[0].scores, plans[1].scores)
    names = [guide.name for guide in load_planner(run, guide=["run", "cloning"]).guides]
    assert names == ["value", "cloning"]


def test_guides_made_of_settings_keep_the_laws_of_guides(run: Path) -> None:
    """In float64: also where a guide's networks are an agent's."""
    info = read_run(run)
    model = info.load("model", device="cpu")
    for name in ("value", "iql", "mine", "goal"):
        for gradient_at in ("x0", "denoiser"):
            (guide,) = run_guides(info, {name: {"gradient_at": gradient_at}}, device="cpu")
            figures = check_laws(guide, model, goal=[0.1, 0.2])
            assert figures["error"] < 1e-5, (name, gradient_at)


def test_networks_within_composed_guides_are_doubled(run: Path) -> None:
    class Holder:
        """An actor that is not a network and holds one."""

        def __init__(self) -> None:
            self.network = stir(torch.nn.Linear(4, 2))

        def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
            return -(action - self.network(observation)).square().sum(dim=-1)

    parts = one(run, "cloning", fields=None), one(run, "iql")
    model = read_run(run).load("model", device="cpu")
    for guide in (Sum(parts), Policy(Holder(), fields=None)):
        figures = check_laws(guide, model)
        assert figures["error"] < 1e-6, "single precision has some 1e-4"


# ------------------------------------------------------------------------ old runs, before training


def test_runs_of_before_say_the_same(run: Path, tmp_path: Path) -> None:
    """`run.json` without kinds: scale, transform, trace and at of a value, in older formats."""
    content = json.loads((run / "run.json").read_text())
    for folder in ("model", "noisy"):
        (tmp_path / folder).symlink_to(run / folder)
    content["planner"] = {"candidates": 3, "steps": 2}
    old = {"scale": 0.5, "transform": "none", "trace": 0.5, "at": "x0"}
    for number in (1, 2, 3):
        (tmp_path / "run.json").write_text(
            json.dumps(content | {"format": number, "guides": {"noisy": old}, "guide": "noisy"})
        )
        found = one(tmp_path)
        assert (type(found), found.name, found.scale) == (Value, "noisy", 0.5)
        assert (found.transform, found.td_lambda, found.gradient_at) == ("none", 0.5, "x0")


STAGES = [
    StageRecord(name=name, learner=learner, arguments=arguments, trainer={}, seed=0)
    for name, learner, arguments in (
        ("value", "transition_value", {}),
        ("noisy", "segment_value", {"discount": 0.9}),
        ("iql", "iql", {}),
        ("cloning", "cloning", {}),
        ("model", "trajectory_diffusion", {}),
    )
]


def test_settings_are_checked_without_networks() -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("value", {"scale": 3.0, "transform": "log", "td_lambda": 0.7, "floor": 0.1}),
        ("noisy", {"rule": "diffuser"}),
        ("iql", {"heads": "mean", "where": "discounted", "rule": {"name": "score"}}),
        ("iql", {"name": "policy", "agent": "iql", "temperature": 2.0}),
        ("critic", {"critic": {"stage": "iql"}, "of": "value"}),
        ("return", {"value": "noisy", "target": 3.0}),
        ("return", {"discount": 0.5}),
        ("goal", {"where": "any"}),
    ]
    for name, settings in cases:
        check_guide(name, settings, STAGES)


def test_a_stage_that_is_left_out_leaves_its_guide() -> None:
    check_guide("value", {"scale": 3.0})
    with pytest.raises(PgdiffError, match=r"`guides.value` has no 'scal'.*'scale'"):
        check_guide("value", {"scal": 3.0})


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("value", {"scal": 1.0}, r"`guides.value` has no 'scal'.* Did you mean 'scale'"),
    ("policy", {"agent": "iql", "td_lambda": 0.5}, r"`guides.policy` has no 'td_lambda'"),
    ("value", {"agent": "a.zip"}, r"`guides.value` has no 'agent'"),
    ("goal", {"stage": "iql"}, r"`guides.goal` has no 'stage'"),
    ("value", {"scale": float("nan")}, r"`scale` must be a number in \[0.0, inf\]. Got nan"),
    ("value", {"scale": -1.0}, r"`scale` must be a number .* Got -1.0"),
    ("value", {"scale": "much"}, r"`scale` must be a number .* Got 'much'"),
    ("value", {"name": "valeu"}, r"`name of the guide 'value'` must be .* Did you mean 'value'"),
    ("value", {"name": "evil:Evil"}, r"'evil:Evil' must be registered .* never imports"),
    ("value", {"transform": "sqrt"}, r"`transform` must be one of"),
    ("value", {"td_lambda": 2.0}, r"`td_lambda` must be a number in \[0.0, 1.0\]"),
    ("iql", {"gradient_at": "x1"}, r"`gradient_at` must be one of .* Got 'x1'"),
    (
        "iql",
        {"gradient_at": "denoiser", "rule": "diffuser"},
        r"`gradient_at` of 'iql' must be .* Got 'denoiser'",
    ),
    ("iql", {"rule": "scores"}, r"`guides.iql.rule` must be .* Did you mean 'score'"),
    ("iql", {"rule": "evil:Evil"}, r"'evil:Evil' must be registered .* never imports"),
    (
        "iql",
        {"scale_schedule": {"name": "power", "exponent": 0}},
        r"`exponent` must be a number in",
    ),
    (
        "iql",
        {"scale_schedule": {"exponent": 1}},
        r"`guides.iql.scale_schedule` must be one of .* Got 'None'",
    ),
    ("iql", {"scale_schedule": 3}, r"`scale_schedule` must be a ScaleSchedule or None. Got 3"),
    ("iql", {"fields": "action"}, r"`fields` must be .* Did you mean 'actions'"),
    ("iql", {"token_weights": 1.0}, r"`guides.iql` cannot be built from .*token_weights"),
    ("iql", {"heads": "most"}, r"`heads` must be one of"),
    ("policy", {"agent": {"stage": "iq"}}, r"`guides.policy.agent` .* Did you mean 'iql'"),
    ("policy", {"agent": "value"}, r"`guides.policy.agent` must refer to Actor. .* 'value' trains"),
    (
        "critic",
        {"critic": "cloning"},
        r"must refer to ActionCritic. The stage 'cloning' trains Clo",
    ),
    ("return", {"value": "value"}, r"to SegmentValue. The stage 'value' trains TransitionValue"),
    ("value", {"value": "iql"}, r"`guides.value.value` must refer to .* 'iql' trains IQL"),
    ("return", {"value": "noisy", "discount": 0.5}, r"`discount` must be None .* own is 0.9"),
    ("policy", {"agent": "nowhere.zip"}, r"`guides.policy.agent` must .*'nowhere.zip' does not"),
    ("policy", {"agent": {"agent": "nowhere.zip"}}, r"'nowhere.zip' does not exist"),
    ("policy", {"agent": {"run": "nowhere", "stage": "iql"}}, r"`run` must be a run .* 'nowhere'"),
    ("policy", {"agent": 3}, r"`agent` must be the path of an agent.* Got a int"),
    ("policy", {"agent": {"stge": "iql"}}, r"`guides.policy.agent` has no 'stge'.* 'stage'"),
    ("policy", {"agent": {"agent": "a.zip", "stage": "iql"}}, r"must be {stage: NAME}"),
    ("policy", {"agent": {"run": "a"}}, r"must be {stage: NAME}, {run: DIR"),
    ("policy", {"agent": {"stage": "iql", "vec_normalize": "v.pkl"}}, r"must be {stage: NAME}"),
    ("policy", {"agent": "iql", "temperature": 0}, r"`temperature` must be a number in \(0.0"),
    ("goal", {"goal": [1.0], "goal_features": [0, 1]}, r"`goal` must give a number for each feat"),
    ("constraint", {}, r"`guides.constraint` needs `cost`, which is missing"),
    ("constraint", {"cost": "disk"}, r"`guides.constraint.cost` must be .* Did you mean 'disc'"),
    ("model", {}, r"`name` of the guide 'model' must be .* a stage of 'trajectory_diffusion'"),
    ("vlue", {}, r"`name` of the guide 'vlue' must be one of .* Got none"),
]


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named_before_training_and_when_a_run_is_opened(run: Path) -> None:
    info = read_run(run)
    for name, settings, message in BAD:
        with pytest.raises(PgdiffError, match=message):
            check_guide(name, settings, STAGES)
        opened = message
        if name == "vlue":
            opened = r"`guide` must be one of .* Did you mean 'value'"
        if name == "model":
            opened = r"`guide` must be one of .* Got 'model'"
        with pytest.raises(PgdiffError, match=opened):
            load_planner(info.path, guide=[(name, settings)])


def test_bad_choices_are_named(run: Path) -> None:
    cases: list[tuple[Any, str]] = [
        ("valeu", r"`guide` must be one of .* Did you mean 'value'\? Got 'valeu'"),
        ("policy", r"`guides.policy.agent` must be given.* fits: iql, td3_bc, cloning\."),
        ({"value": {"agent": "a.zip"}}, r"`guides.value.value` must .* 'a.zip' does not exist"),
        ([("value", {"agent": "a.zip"})], r"`guides.value` has no 'agent'"),
        ([("value", 3)], r"pairs of a label and settings. Got \('value', 3\)"),
        ("critic", r"`guides.critic.critic` must be given.* fits: iql, td3_bc\."),
        ("evil:Evil", r"must be a registered guide. Got the path 'evil:Evil'"),
        ("return", r"`fields` of the model must hold 'rewards' for 'return'"),
        (["value", "value"], r"`guide` must name each guide once. Got 'value' twice"),
        (["value", "run"], r"`guide` must name each guide once. Got 'value' twice"),
        ({"value": 3}, r"`value` must be a TransitionValue, .* Got a int"),
        ({"mine": 3}, r"`guide` must give the settings of 'mine' by name. Got 3"),
        (7, r"`guide` must be a name, names, or settings by name. Got 7"),
        ({"mine": {"limit": 0.5}}, r"`limit` must be None for this agent"),
    ]
    for guide, message in cases:
        with pytest.raises(PgdiffError, match=message):
            load_planner(run, guide=guide).plan(OBSERVATION)


def test_agents_must_fit_the_runs_model(run: Path, bare: Path, sac: Path, tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match=r"`fields` of the model must hold 'actions' .* 'policy'"):
        load_planner(bare, guide={"policy": {"agent": sac}})
    wide = np.tile(EPISODES.observations, (1, 2)), EPISODES.actions[:, :1]
    other = record(*wide, EPISODES.rewards, lengths=[480])
    IQL.from_episodes(other, **SMALL).save_pretrained(tmp_path / "other")
    message = r"must be of the model's task. .* \(8,\) and action \(1,\), .* \(4,\) .* \(2,\)"
    for kind, key in (("policy", "agent"), ("critic", "critic")):
        with pytest.raises(PgdiffError, match=f"`{kind}` {message}"):
            load_planner(run, guide={kind: {key: tmp_path / "other"}})
    plan = load_planner(bare, guide={"iql": {"scale": 0.1}}).plan(OBSERVATION)
    assert np.isfinite(plan.scores).all(), "of a model without actions the critic values states"


def test_an_unfinished_stage_is_named(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    for stage in content["stages"]:
        stage["finished"] = stage["name"] != "iql"
    (tmp_path / "model").symlink_to(run / "model")
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(PgdiffError, match=r"The stage 'iql' of the run .* is not finished"):
        load_planner(tmp_path, guide="iql")


def test_nothing_is_loaded_that_is_not_asked_for(run: Path, monkeypatch: Any) -> None:
    loaded: list[str] = []
    load = RunInfo.load

    def noted(self: RunInfo, name: str, **options: Any) -> Any:
        loaded.append(name)
        return load(self, name, **options)

    monkeypatch.setattr(RunInfo, "load", noted)
    load_planner(run, guide="cloning")
    assert loaded == ["model", "cloning"]
