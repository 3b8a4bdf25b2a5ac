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
from toys import record, stir, tiny_model, walk

from pgdiff import Planner, SegmentValue, TransitionValue
from pgdiff.agents import IQL, TD3BC, Agent, Cloning
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import PolicyGuidedRule, Power, Score, SineBump
from pgdiff.guides import Critic, Goal, Policy, Return, Sum, Value
from pgdiff.planning.from_run import RunInfo, StageRecord, read_run
from pgdiff.planning.run_guides import check_guide
from pgdiff.pretrained import seeded_torch
from pgdiff.testing import check_guide as check_laws
from pgdiff.validation import PgdiffError
from pgdiff.workflows.runs import write_run

EPISODES = walk()
SMALL = {"members": 2, "width": 16}
OBSERVATION = np.float32([0.3, -0.2, 0.1, 0.0])
GUIDES: dict[str, dict[str, Any]] = {
    "value": {"scale": 0.02, "transform": "log", "trace": 0.7, "at": None},
    "mine": {"kind": "policy", "stage": "iql", "scale": 0.3, "temperature": 0.5},
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
        planner={"candidates": 3, "steps": 2},
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


def one(run: Path, guide: Any = None, **settings: Any) -> Any:
    (found,) = Planner.from_run(run, guide=guide, **settings).guides
    return found


# --------------------------------------------------------------------------- what a name stands for


@pytest.mark.parametrize(
    ("guide", "settings", "kind", "part"),
    [
        (None, {}, Value, TransitionValue),
        ("value", {}, Value, TransitionValue),
        ("noisy", {}, Value, SegmentValue),
        ("iql", {}, Critic, IQL),
        ("td3_bc", {}, Critic, TD3BC),
        ("cloning", {}, Policy, Cloning),
        ("mine", {}, Policy, IQL),
        ("iql", {"kind": "policy"}, Policy, IQL),
        ("critic", {"stage": "td3_bc"}, Critic, TD3BC),
        ("policy", {"stage": "td3_bc"}, Policy, TD3BC),
        ("return", {"stage": "noisy"}, Return, SegmentValue),
        ("mine", {"stage": "cloning"}, Policy, Cloning),
        ("other", {"kind": "critic", "stage": "iql"}, Critic, IQL),
        ("goal", {"goal": [1.0, 2.0]}, Goal, type(None)),
    ],
    ids=str,
)
def test_a_name_stands_for_a_guide(
    run: Path, guide: Any, settings: dict[str, Any], kind: type, part: type
) -> None:
    found = one(run, guide, guide_settings=settings)
    assert type(found) is kind and found.name == (guide or "value")
    held = [getattr(found, name, None) for name in ("value", "critic", "agent")]
    assert [type(each) for each in held if each is not None] == [part][: part is not type(None)]


def test_none_and_no_default(run: Path, tmp_path: Path) -> None:
    assert Planner.from_run(run, guide="none", scale=3.0).guides == ()
    content = json.loads((run / "run.json").read_text()) | {"guide": None}
    for folder in ("model", "value"):
        (tmp_path / folder).symlink_to(run / folder)
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert Planner.from_run(tmp_path).guides == ()
    assert one(tmp_path, "value").scale == 0.02
    with pytest.raises(PgdiffError, match=r"`guide` must be named, because the run .* names none"):
        Planner.from_run(tmp_path, scale=3.0)


def test_settings_are_the_runs_and_changes_to_them(run: Path) -> None:
    plain = one(run)
    assert (plain.scale, plain.transform, plain.trace, plain.at) == (0.02, "log", 0.7, "x0")
    changed = one(run, scale=2.0, transform="none", at="denoiser", guide_settings={"trace": 0.5})
    assert (changed.scale, changed.transform, changed.trace) == (2.0, "none", 0.5)
    assert changed.at == "denoiser"
    mine = one(run, "mine", scale=None)
    assert (mine.scale, mine.temperature, mine.fields) == (0.3, 0.5, ("actions",))


@pytest.mark.parametrize(
    ("key", "plain", "value"),
    [
        ("rule", "score", Score()),
        ("rule", {"name": "score", "floor": 0.1}, Score(floor=0.1)),
        ("schedule", "sine_bump", SineBump()),
        ("schedule", {"name": "power", "exponent": 2.0}, Power(exponent=2.0)),
        ("schedule", "none", None),
        ("normalize", "plan", "plan"),
        ("normalize", "none", None),
        ("fields", "all", None),
        ("fields", "actions", ("actions",)),
        ("fields", ["observations", "actions"], ("observations", "actions")),
        ("tokens", [0, 1, 1, 1, 1, 2], (0.0, 1.0, 1.0, 1.0, 1.0, 2.0)),
        ("tokens", "none", None),
        ("weight", 2, 2.0),
        ("deviation", 0.5, 0.5),
    ],
)
def test_plain_values_stand_for(run: Path, sac: Path, key: str, plain: Any, value: Any) -> None:
    found = one(run, "policy", agent=sac, guide_settings={key: plain})
    assert getattr(found, key) == value


def test_what_is_published_as_policy_guidance_can_be_said(run: Path) -> None:
    said = {"stage": "iql", "rule": "policy_guided", "schedule": "sine_bump"}
    found = one(run, "policy", at="x", scale=0.1, guide_settings=said)
    assert (found.at, found.rule, found.schedule) == ("x", PolicyGuidedRule(), SineBump())


# ------------------------------------------------------------------------------------------- agents


class Own:
    """An actor of one's own, no network."""

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return -action.square().sum(dim=-1)


def test_agents_come_as_files_folders_models_and_objects(run: Path, sac: Path) -> None:
    live = SAC.load(sac, device="cpu")
    own = Own()
    assert one(run, "policy", agent=own).agent is own
    plans = [
        Planner.from_run(run, guide="policy", agent=agent, scale=0.05).plan(OBSERVATION)
        for agent in (sac, str(sac), live)
    ]
    for plan in plans[1:]:
        np.testing.assert_allclose(plan.candidates, plans[0].candidates, atol=1e-5)
    folder, stage = one(run, "critic", agent=run / "iql"), one(run, "critic", guide_settings=_IQL)
    assert type(folder.critic) is type(stage.critic) is IQL
    # In place of the stage that the run says.
    assert isinstance(one(run, "mine", agent=sac).agent, Agent)


_IQL = {"stage": "iql"}


def test_statistics_of_a_zip_are_named_beside_it(run: Path, tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([Room]))
    env.obs_rms.mean += 3.0
    with seeded_torch(seed=0):
        PPO("MlpPolicy", env, n_steps=2, batch_size=2, device="cpu").save(tmp_path / "ppo.zip")
    env.save(tmp_path / "vec.pkl")
    files = {"agent": tmp_path / "ppo.zip", "vec_normalize": tmp_path / "vec.pkl"}
    found = one(run, "policy", guide_settings=files)
    assert found.agent.vec_normalize.mean.tolist() == [3.0] * 4
    assert one(run, "policy", agent=files["agent"]).agent.vec_normalize is None


# -------------------------------------------------------------------------------------- composition


def test_several_guides_each_with_its_own_settings(run: Path, sac: Path) -> None:
    """Planning with them is planning with the guides made by hand."""
    chosen = {"value": {"scale": 0.01}, "policy": {"agent": sac, "scale": 0.05, "at": "denoiser"}}
    planner = Planner.from_run(run, guide=chosen)
    assert [(g.name, g.scale, g.at) for g in planner.guides] == [
        ("value", 0.01, "x0"),
        ("policy", 0.05, "denoiser"),
    ]
    info = read_run(run)
    by_hand = [
        Value(info.load("value"), name="value", scale=0.01, transform="log", trace=0.7),
        Policy(sac, scale=0.05, at="denoiser"),
    ]
    other = Planner(info.load("model"), guides=by_hand, candidates=3, steps=2)
    plans = [each.plan(OBSERVATION, seed=4) for each in (planner, other)]
    np.testing.assert_array_equal(plans[0].candidates, plans[1].candidates)
    np.testing.assert_array_equal(plans[0].scores, plans[1].scores)
    still = Planner.from_run(run, guide=chosen, scale=0.0)
    assert [guide.scale for guide in still.guides] == [0.0, 0.0]
    names = [guide.name for guide in Planner.from_run(run, guide=["run", "cloning"]).guides]
    assert names == ["value", "cloning"]


@pytest.mark.parametrize("at", ["x0", "denoiser"])
@pytest.mark.parametrize("name", ["value", "iql", "mine", "goal"])
def test_what_settings_make_keeps_the_laws_of_guides(run: Path, name: str, at: str) -> None:
    """In float64: also where a guide's networks are an agent's."""
    guide = one(run, name, at=at)
    figures = check_laws(guide, read_run(run).load("model", device="cpu"), goal=[0.1, 0.2])
    assert figures["error"] < 1e-5


def test_networks_within_composed_guides_are_doubled(run: Path) -> None:
    class Holder:
        """An actor that is no network, and has one."""

        def __init__(self) -> None:
            self.network = stir(torch.nn.Linear(4, 2))

        def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
            return -(action - self.network(observation)).square().sum(dim=-1)

    parts = one(run, "cloning", guide_settings={"fields": "all"}), one(run, "iql")
    model = read_run(run).load("model", device="cpu")
    for guide in (Sum(parts), Policy(Holder(), fields=None)):
        figures = check_laws(guide, model)
        assert figures["error"] < 1e-6, "single precision has some 1e-4"


# ------------------------------------------------------------------------ old runs, before training


def test_runs_of_before_say_the_same(run: Path, tmp_path: Path) -> None:
    """`run.json` without kinds: scale, transform, trace and at of a value, in either format."""
    content = json.loads((run / "run.json").read_text())
    for folder in ("model", "noisy"):
        (tmp_path / folder).symlink_to(run / folder)
    old = {"scale": 0.5, "transform": "none", "at": "x0"}
    for number in (1, 2):
        (tmp_path / "run.json").write_text(
            json.dumps(content | {"format": number, "guides": {"noisy": old}, "guide": "noisy"})
        )
        found = one(tmp_path)
        assert (type(found), found.name, found.scale) == (Value, "noisy", 0.5)
        assert (found.transform, found.at) == ("none", "x0")


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("value", {"scale": 3.0, "transform": "log", "trace": 0.7, "at": None, "floor": 0.1}),
        ("noisy", {"rule": "diffuser"}),
        ("iql", {"heads": "mean", "where": "discounted", "rule": {"name": "score"}}),
        ("iql", {"kind": "policy", "temperature": 2.0}),
        ("critic", {"stage": "iql", "of": "value"}),
        ("return", {"stage": "noisy", "target": 3.0}),
        ("return", {"discount": 0.5}),
        ("goal", {"where": "any"}),
    ],
)
def test_settings_are_checked_without_networks(name: str, settings: dict[str, Any]) -> None:
    check_guide(name, settings, STAGES)


def test_a_stage_that_is_left_out_leaves_its_guide() -> None:
    check_guide("value", {"scale": 3.0})
    with pytest.raises(PgdiffError, match=r"The guide 'value' has no 'scal'.*'scale'"):
        check_guide("value", {"scal": 3.0})


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("value", {"scal": 1.0}, r"The guide 'value' has no 'scal'.* Did you mean 'scale'"),
    ("policy", {"stage": "iql", "trace": 0.5}, r"The guide 'policy' has no 'trace'"),
    ("value", {"agent": "a.zip"}, r"The guide 'value' has no 'agent'"),
    ("goal", {"stage": "iql"}, r"The guide 'goal' has no 'stage'"),
    ("value", {"scale": float("nan")}, r"`scale` must be a number in \[0.0, inf\]. Got nan"),
    ("value", {"scale": -1.0}, r"`scale` must be a number .* Got -1.0"),
    ("value", {"scale": "much"}, r"`scale` must be a number .* Got 'much'"),
    ("value", {"kind": "valeu"}, r"`kind of the guide 'value'` must be .* Did you mean 'value'"),
    ("value", {"transform": "sqrt"}, r"`transform` must be one of"),
    ("value", {"trace": 2.0}, r"`trace` must be a number in \[0.0, 1.0\]"),
    ("iql", {"at": "x1"}, r"`at` must be one of .* Got 'x1'"),
    ("iql", {"at": "denoiser", "rule": "diffuser"}, r"`at` of 'iql' must be .* Got 'denoiser'"),
    ("iql", {"rule": "scores"}, r"`guidance_rule` must be .* Did you mean 'score'"),
    ("iql", {"schedule": {"name": "power", "exponent": 0}}, r"`exponent` must be a number in"),
    ("iql", {"schedule": {"exponent": 1}}, r"guidance_schedule's configuration must be .* 'name'"),
    ("iql", {"schedule": 3}, r"`schedule` must be a GuidanceSchedule or None. Got 3"),
    ("iql", {"fields": "action"}, r"`fields` must be .* Did you mean 'actions'"),
    ("iql", {"tokens": 1.0}, r"The guide 'iql' cannot be built from .*tokens"),
    ("iql", {"heads": "most"}, r"`heads` must be one of"),
    ("policy", {"stage": "iq"}, r"`stage of the guide 'policy'` must be .* Did you mean 'iql'"),
    ("policy", {"stage": "value"}, r"'policy' must be one that has learned a policy. 'value' is a"),
    ("critic", {"stage": "cloning"}, r"learned a critic of actions. 'cloning' is a Cloning"),
    ("return", {"stage": "value"}, r"learned a value of noisy segments. 'value' is a Transition"),
    ("value", {"stage": "iql"}, r"`stage` of the guide 'value' must be .* a value. 'iql' is a IQL"),
    ("return", {"stage": "noisy", "discount": 0.5}, r"`discount` must be None .* own is 0.9"),
    ("policy", {"agent": "nowhere.zip"}, r"'nowhere.zip' does not exist"),
    ("policy", {"agent": 3}, r"`agent` must be the path of an agent.* Got a int"),
    (
        "policy",
        {"agent": "a.zip", "stage": "iql"},
        r"must not both be given. Got 'a.zip' and 'iql'",
    ),
    ("policy", {"stage": "iql", "vec_normalize": "v.pkl"}, r"`agent` of .* with `vec_normalize`"),
    ("policy", {"stage": "iql", "temperature": 0}, r"`temperature` must be a number in \(0.0"),
    ("goal", {"goal": [1.0], "position": [0, 1]}, r"`goal` must give a number for each feature"),
    ("model", {}, r"`kind` of the guide 'model' must be .* a stage of 'trajectory_diffusion'"),
    ("vlue", {}, r"`kind` of the guide 'vlue' must be one of .* no stage of that name"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_named_before_training(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PgdiffError, match=message):
        check_guide(name, settings, STAGES)


@pytest.mark.parametrize(("name", "settings", "message"), BAD)
@pytest.mark.usefixtures("unchecked")
def test_and_when_a_run_is_opened(
    run: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    if "no stage of that name" in message:
        message = r"`guide` must be one of .* Did you mean 'value'"
    if name == "model":
        message = r"`guide` must be one of .* Got 'model'"
    with pytest.raises(PgdiffError, match=message):
        Planner.from_run(run, guide={name: settings})


@pytest.mark.parametrize(
    ("guide", "settings", "message"),
    [
        ("valeu", {}, r"`guide` must be one of .* Did you mean 'value'\? Got 'valeu'"),
        ("policy", {}, r"'policy' must be given an `agent`.* has iql, td3_bc, cloning\."),
        ("value", {"agent": "a.zip"}, r"The guide 'value' has no 'agent'"),
        ("critic", {}, r"The guide 'critic' must be given an `agent`, .* has iql, td3_bc\."),
        ("return", {}, r"`fields` of the model must hold 'rewards' for 'return'"),
        (["value", "value"], {}, r"`guide` must name every guide once. Got 'value' twice"),
        (["value", "run"], {}, r"`guide` must name every guide once. Got 'value' twice"),
        ({"value": 3}, {}, r"`guide` must give the settings of 'value' by name. Got 3"),
        (7, {}, r"`guide` must be a name, names, or settings by name. Got 7"),
        ("mine", {"guide_settings": {"limit": 0.5}}, r"`limit` must be None for this agent"),
    ],
)
def test_bad_choices_are_named(
    run: Path, guide: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PgdiffError, match=message):
        Planner.from_run(run, guide=guide, **settings)


def test_agents_must_fit_the_runs_model(run: Path, bare: Path, sac: Path, tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match=r"`fields` of the model must hold 'actions' .* 'policy'"):
        Planner.from_run(bare, guide="policy", agent=sac)
    wide = np.tile(EPISODES.observations, (1, 2)), EPISODES.actions[:, :1]
    other = record(*wide, EPISODES.rewards, lengths=[480])
    IQL.from_episodes(other, **SMALL).save_pretrained(tmp_path / "other")
    message = r"must be of the model's task. .* \(8,\) and action \(1,\), .* \(4,\) .* \(2,\)"
    for kind in ("policy", "critic"):
        with pytest.raises(PgdiffError, match=f"`{kind}` {message}"):
            Planner.from_run(run, guide=kind, agent=tmp_path / "other")
    plan = Planner.from_run(bare, guide="iql", scale=0.1).plan(OBSERVATION)
    assert np.isfinite(plan.scores).all(), "of a model without actions the critic values states"


def test_an_unfinished_stage_is_named(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    for stage in content["stages"]:
        stage["finished"] = stage["name"] != "iql"
    (tmp_path / "model").symlink_to(run / "model")
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(PgdiffError, match=r"The stage 'iql' of the run .* is not finished"):
        Planner.from_run(tmp_path, guide="iql")


def test_nothing_is_loaded_that_is_not_asked_for(run: Path, monkeypatch: Any) -> None:
    loaded: list[str] = []
    load = RunInfo.load

    def noted(self: RunInfo, name: str, **options: Any) -> Any:
        loaded.append(name)
        return load(self, name, **options)

    monkeypatch.setattr(RunInfo, "load", noted)
    Planner.from_run(run, guide="cloning")
    assert loaded == ["model", "cloning"]
