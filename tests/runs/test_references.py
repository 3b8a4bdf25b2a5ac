"""References to trained networks: in stages, guides and controllers; paths; hostile run folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import walk

from pgdiff.agents import IQL, FittedQ
from pgdiff.core.pretrained import load_learner
from pgdiff.core.registry import register
from pgdiff.core.validation import PgdiffError
from pgdiff.guides import GradientGuide
from pgdiff.runs import load_planner
from pgdiff.runs.guides import chosen_settings
from pgdiff.runs.references import (
    References,
    anchor,
    as_reference,
    is_reference,
    network_arguments,
    relative_to,
    stages_in,
)
from pgdiff.runs.run import read_run
from pgdiff.runs.stages import Stage
from pgdiff.workflows.train import train_stages

EPISODES = walk()
TRAINER = {"steps": 2, "batch_size": 4, "validation": 0.0}
SMALL = {"members": 2, "width": 8, "depth": 1}


def stage(name: str, learner: str, **arguments: Any) -> Stage:
    return Stage(name=name, learner=learner, arguments=arguments, trainer=TRAINER)


MODEL = stage(
    "model",
    "trajectory_diffusion",
    tokens={"horizon": 4, "stride": 3},
    denoiser={"name": "transformer", "width": 8, "depth": 1, "heads": 1},
)
VALUE = stage("value", "transition_value", stride=3, width=8, depth=1)
INVERSE = stage("inverse", "inverse_dynamics", stride=3, width=8, depth=1)
AGENT = stage("agent", "iql", **SMALL)


def train(folder: Path, *stages: Stage, **options: Any) -> Any:
    settings: dict[str, Any] = {"task": {}, "device": "cpu", "progress": False, **options}
    return train_stages(EPISODES, stages, folder=folder, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model, a value, a controller of an unusual name, and an agent."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    planner = {"controller": {"stage": "inverse"}, "sampling": {"steps": 2}, "candidates": 2}
    guides = {"value": {"scale": 0.1}}
    options: dict[str, Any] = {"planner": planner, "guides": guides, "guide": "value"}
    train(folder, MODEL, VALUE, INVERSE, AGENT, **options)
    return folder


def test_plain_values_that_are_references() -> None:
    for value in ({"stage": "a"}, {"run": "r", "stage": "a"}, {"agent": "f", "vec_normalize": "v"}):
        assert is_reference(value)
    for value in ("a", {}, {"name": "a"}, {"stage": "a", "name": "b"}, None, ["a"]):
        assert not is_reference(value)
    nested = {"a": [{"stage": "x"}, 3], "b": {"c": {"run": "r", "stage": "y"}}, "d": {"stage": "z"}}
    assert list(stages_in(nested)) == ["x", "z"]
    here = Path("/runs/one")
    assert anchor(nested, here)["b"]["c"] == {"run": "/runs/one/r", "stage": "y"}
    typed = {"agent": {"agent": "/a.zip"}, "value": {"run": "runs/two", "stage": "v"}}
    stored = relative_to(typed, Path("runs/one"))
    assert stored == {"agent": {"agent": "/a.zip"}, "value": {"run": "../two", "stage": "v"}}


def test_a_text_is_a_stage_or_a_path(run: Path) -> None:
    stages = read_run(run).stages
    assert as_reference("value", stages) == {"stage": "value"}
    assert as_reference("agent.zip", stages) == {"agent": "agent.zip"}
    assert as_reference({"stage": "value"}, stages) == {"stage": "value"}


def test_networks_are_loaded_frozen(run: Path) -> None:
    info = read_run(run)
    references = References(info.stages, info, device="cpu")
    for reference in ({"stage": "agent"}, {"run": run, "stage": "agent"}, {"agent": run / "agent"}):
        found = references.load(reference, name="x")
        assert isinstance(found, IQL) and not found.training
        assert not any(weight.requires_grad for weight in found.parameters())
    members = references.resolve([{"stage": "agent"}, "b"], name="x")
    assert [getattr(item, "members", item) for item in members] == [1, 1, "b"]


def test_a_run_loads_the_controller_and_the_guide_of_its_settings(run: Path) -> None:
    planner = load_planner(run, device="cpu")
    assert type(planner.controller).__name__ == "InverseDynamics"
    (guide,) = planner.guides
    assert not any(weight.requires_grad for weight in guide.value.parameters())  # type: ignore[attr-defined]


def test_a_stage_may_need_a_stage_that_is_trained_before_it(run: Path, tmp_path: Path) -> None:
    """With the weights that it has if the other stage was trained in another run."""
    inside = stage("critic", "fitted_q", policies=[{"stage": "agent"}], width=8, depth=1)
    train(tmp_path / "one", AGENT, inside)
    elsewhere = stage(
        "critic", "fitted_q", policies=[{"run": str(run), "stage": "agent"}], width=8, depth=1
    )
    by_path = stage("critic", "fitted_q", policies=[str(run / "agent")], width=8, depth=1)
    train(tmp_path / "two", elsewhere)
    train(tmp_path / "three", by_path)
    one, *others = (
        load_learner(tmp_path / name / "critic", device="cpu").state_dict()
        for name in ("one", "two", "three")
    )
    for other in others:
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_run(tmp_path / "one").stages[1].arguments["policies"] == [{"stage": "agent"}]


def test_missing_networks_are_named_before_training(run: Path, tmp_path: Path) -> None:
    def critic(**reference: Any) -> Stage:
        return stage("critic", "fitted_q", policies=[reference], width=8, depth=1)

    cases: list[tuple[list[Stage], str]] = [
        ([AGENT, critic(stage="agnt")], r"stage 'critic' must refer to .* Did you mean 'agent'"),
        ([critic(stage="agent"), AGENT], "'critic' must come after the stage 'agent'"),
        ([critic(run="nowhere", stage="agent")], r"`critic.policies\[0\]` must .* 'nowhere'"),
        ([critic(run=str(run), stage="agnt")], r"`critic.policies\[0\]` must .* 'agnt'"),
        ([critic(agent="nowhere.zip")], r"`critic.policies\[0\]` must .*nowhere.zip' does not"),
        ([critic(run="x", agent="y")], r"`critic.policies\[0\]` must be {stage: NAME}"),
    ]
    for stages, message in cases:
        with pytest.raises(PgdiffError, match=message):
            train(tmp_path / "run", *stages)
    with pytest.raises(PgdiffError, match=r"`controller` must .* Did you mean 'inverse'"):
        train(tmp_path / "run", MODEL, INVERSE, planner={"controller": {"stage": "invers"}})
    with pytest.raises(PgdiffError, match=r"`controller` must .*Got 'inverted'"):
        train(tmp_path / "run", MODEL, INVERSE, planner={"controller": "inverted"})
    assert list(tmp_path.iterdir()) == []


def test_a_stored_path_is_relative_to_the_run_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typed path is relative to the working folder; both folders may then move together."""
    (tmp_path / "work").mkdir()
    shutil.copytree(run, tmp_path / "work" / "one")
    monkeypatch.chdir(tmp_path / "work")
    guides = {"value": {"value": {"run": "one", "stage": "value"}, "scale": 0.1}}
    planner = {"controller": {"run": "one", "stage": "inverse"}}
    train(Path("two"), MODEL, guides=guides, guide="value", planner=planner)
    content = json.loads(Path("two/run.json").read_text())
    assert content["guides"]["value"]["value"] == {"run": "../one", "stage": "value"}
    assert content["planner"]["controller"] == {"run": "../one", "stage": "inverse"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").rename(tmp_path / "moved")
    planner = load_planner("moved/two", device="cpu")
    assert [guide.name for guide in planner.guides] == ["value"]
    assert type(planner.controller).__name__ == "InverseDynamics"
    typed = load_planner("moved/two", guide={"value": {"run": "moved/one", "stage": "value"}})
    assert [guide.name for guide in typed.guides] == ["value"]
    shutil.rmtree("moved/one")
    with pytest.raises(PgdiffError, match=r"`guides.value.value` must .*moved/two/../one"):
        load_planner("moved/two")


@pytest.mark.usefixtures("own_registry")
def test_a_guide_of_another_package_is_named_in_a_recipe_and_in_a_run(tmp_path: Path) -> None:
    @register("guide", "liked_actions")
    class LikedActions(GradientGuide):
        """Prefers what a critic likes; its annotation states the network."""

        def __init__(self, critic: FittedQ, *, strength: float = 1.0, **settings: Any) -> None:
            super().__init__(name="liked actions", scale=strength, **settings)
            self.critic = critic

        def objective(self, segment: Any, level: Any) -> Any:
            return -segment.observations.square().sum((1, 2))

    assert network_arguments(LikedActions)["critic"].required
    critic = stage("q", "fitted_q", policies=[{"stage": "agent"}], width=8, depth=1)
    for settings, message in (
        ({"strenth": 2.0}, "`guides.mine` has no 'strenth'.* Did you mean 'strength'"),
        ({"critic": "agent"}, "must refer to FittedQ. The stage 'agent' trains IQL"),
    ):
        guides = {"mine": {"name": "liked_actions", **settings}}
        with pytest.raises(PgdiffError, match=message):
            train(tmp_path / "run", MODEL, AGENT, critic, guides=guides)
    guides = {"mine": {"name": "liked_actions", "critic": "q", "strength": 0.2, "rule": "score"}}
    train(tmp_path / "run", MODEL, AGENT, critic, guides=guides, guide="mine")
    (guide,) = load_planner(tmp_path / "run").guides
    assert (type(guide), guide.name, guide.scale) == (LikedActions, "mine", 0.2)
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["guides"]["mine"]
    assert stored["import"] == __name__ and stored["critic"] == {"stage": "q"}
    chosen = chosen_settings(read_run(tmp_path / "run"), ["q"])["q"]
    assert chosen["name"] == "critic", "the guides of the package come first"


def test_a_run_folder_imports_nothing(run: Path, tmp_path: Path) -> None:
    """A guide, a controller, a part or a learner that names a module, beside which it lies."""
    evil = "from pathlib import Path\nPath('executed').touch()\nclass Evil: ...\n"
    foreign = {"name": "Evil", "import": "evil"}
    cases: dict[str, Any] = {
        "guide": ("guides", {"value": {"name": "evil:Evil"}}),
        "foreign guide": ("guides", {"value": foreign}),
        "rule": ("guides", {"value": {"rule": "evil:Evil"}}),
        "foreign rule": ("guides", {"value": {"rule": foreign}}),
        "default": ("guide", "evil:Evil"),
        "controller": ("planner", {"controller": "evil:Evil"}),
        "solver": ("planner", {"sampling": {"solver": "evil:Evil"}}),
        "learner": ("stages", None),
    }
    code = "from pgdiff.runs import load_planner\n"
    for number, (key, value) in enumerate(cases.values()):
        folder = tmp_path / str(number)
        shutil.copytree(run, folder)
        (folder / "evil.py").write_text(evil)
        content = json.loads((folder / "run.json").read_text())
        content[key] = value
        if key == "stages":
            content["stages"] = json.loads((run / "run.json").read_text())["stages"]
            for record in content["stages"]:
                record["learner"] = "evil:Evil" if record["name"] == "value" else record["learner"]
        (folder / "run.json").write_text(json.dumps(content))
        # From within the folder, which is then on the path that modules are imported from.
        code += f"import os, sys\nos.chdir({str(folder)!r}); sys.path.insert(0, '')\n"
        code += "try:\n    load_planner('.')\nexcept ValueError as error:\n    print(error)\n"
        code += "else:\n    print('accepted')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases), done.stdout
    for name, line in zip(cases, lines, strict=True):
        assert "evil" in line.lower() and "must be" in line, (name, line)
        assert "never imports" in line or "Import" in line or name in ("default", "solver"), line
    assert not list(tmp_path.rglob("executed"))


def test_plans_of_frozen_networks_are_those_of_trainable_ones(run: Path) -> None:
    info = read_run(run)
    planner = load_planner(run, device="cpu")
    (frozen,) = planner.guides
    free = type(frozen)(info.load("value", device="cpu"), scale=0.1)  # type: ignore[call-arg]
    other = planner.replace(guides=[free])
    observation = np.zeros(4, np.float32)
    plans = [each.plan(observation, seed=3) for each in (planner, other)]
    np.testing.assert_array_equal(plans[0].candidates, plans[1].candidates)
