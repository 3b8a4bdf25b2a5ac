"""Files that are refused: folders of networks, checkpoints, run folders."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from regression import Regression, make_episodes
from toys import flat_model

from pgdiff.core.pretrained import load_learner
from pgdiff.core.serialization import FORMAT
from pgdiff.core.validation import PgdiffError
from pgdiff.critics import SegmentValue, TransitionValue
from pgdiff.data import Episodes
from pgdiff.model import TrajectoryDiffusion
from pgdiff.runs.run import RUN_FORMAT, read_run
from pgdiff.training import Trainer

NAN, INF = float("nan"), float("inf")


def trainer(**settings: Any) -> Trainer:
    return Trainer(**{"steps": 4, "batch_size": 8, "progress": False, "device": "cpu"} | settings)


def _episodes(length: int = 40) -> Episodes:
    return make_episodes(count=12, length=length)


def _model(**arguments: Any) -> TrajectoryDiffusion:
    settings: dict[str, Any] = {"horizon": 8, "stride": 2}
    settings |= arguments
    return flat_model(_episodes(), **settings)


def _value(**arguments: Any) -> TransitionValue:
    return TransitionValue.from_episodes(_episodes(), **{"stride": 2, "width": 8} | arguments)


# ----------------------------------------------------------------------------- folders of networks

Spoil = Callable[[Path], None]


def reseal(folder: Path) -> None:
    """Write sums that fit the files, so that only the remaining faults are found."""
    entries = {}
    for file in sorted(folder.iterdir()):
        if file.name != "manifest.json":
            data = file.read_bytes()
            entries[file.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(folder / "manifest.json", {"files": entries, "format": FORMAT})


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def config(change: Callable[[dict[str, Any]], Any], file: str = "config.json") -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        write_json(folder / file, change(content) or content)
        reseal(folder)

    return spoil


def put(**changes: Any) -> Spoil:
    """Change the folder's description of the network."""
    return config(lambda content: content["learner"].update(changes))


def tensors(change: Callable[[dict[str, Any]], Any], file: str = "model.safetensors") -> Spoil:
    def spoil(folder: Path) -> None:
        content = safetensors.torch.load_file(folder / file)
        change(content)
        (folder / file).write_bytes(safetensors.torch.save(content))
        reseal(folder)

    return spoil


def raw(file: str, change: Callable[[bytes], bytes], *, seal: bool = False) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
        if seal:
            reseal(folder)

    return spoil


def manifest(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        write_json(folder / "manifest.json", content)

    return spoil


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def _pickle(file: str, *, by_torch: bool = False) -> Spoil:
    def spoil(folder: Path) -> None:
        payload = Payload(folder.parent / "executed")
        if by_torch:
            torch.save(payload, folder / file)
        else:
            (folder / file).write_bytes(pickle.dumps(payload))
        reseal(folder)

    return spoil


def _link(folder: Path) -> None:
    outside = folder.parent / "secret.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def _huge(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(2**40)  # it takes no space on the disk


def _nested(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"[" * 200_000)
    reseal(folder)


def _renamed(content: dict[str, Any], path: str) -> None:
    content["files"][path] = content["files"].pop("config.json")


NETWORKS: dict[str, tuple[Spoil, list[str]]] = {
    "cut off": (
        raw("model.safetensors", lambda data: data[: len(data) // 2]),
        ["model.safetensors' is damaged", "SHA-256"],
    ),
    "one bit flipped": (
        raw("model.safetensors", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
        ["model.safetensors' is damaged"],
    ),
    "configuration edited by hand": (
        raw("config.json", lambda data: data.replace(b'"stride": 2', b'"stride": 3')),
        ["config.json' is damaged"],
    ),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), ["has no manifest.json"]),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        ["model.safetensors' is missing", "manifest.json lists it"],
    ),
    "weights that are not listed": (
        manifest(lambda content: content["files"].pop("model.safetensors")),
        ["must contain model.safetensors"],
    ),
    "manifest without files": (
        manifest(lambda content: content.pop("files")),
        ["manifest.json' is damaged"],
    ),
    "manifest that is a list": (
        raw("manifest.json", lambda data: b"[]\n"),
        ["manifest.json'", "`format`"],
    ),
    "manifest that is not JSON": (
        raw("manifest.json", lambda data: data[:-5]),
        ["manifest.json' is damaged", "not valid JSON"],
    ),
    "a path out of the folder": (
        manifest(lambda content: _renamed(content, "../config.json")),
        ["manifest.json' is damaged"],
    ),
    "an absolute path": (
        manifest(lambda content: _renamed(content, "/etc/passwd")),
        ["manifest.json' is damaged"],
    ),
    "a link out of the folder": (_link, ["model.safetensors' is a link", "out of its folder"]),
    "a file of a terabyte": (_huge, ["model.safetensors' is damaged"]),
    "a pickle in place of weights": (
        _pickle("model.safetensors"),
        ["model.safetensors' is not a safetensors file"],
    ),
    "a file of torch.save in place of weights": (
        _pickle("model.safetensors", by_torch=True),
        ["model.safetensors' is not a safetensors file"],
    ),
    "a pickle in place of the configuration": (
        _pickle("config.json"),
        ["config.json' is damaged", "not valid JSON"],
    ),
    "NaN weights": (
        tensors(lambda found: found["value_network.0.weight"].fill_(NAN)),
        ["'value_network.0.weight'", "must be finite"],
    ),
    "infinite weights": (
        tensors(lambda found: found["reward_network.0.bias"].fill_(-INF)),
        ["'reward_network.0.bias'", "must be finite"],
    ),
    "a weight too few": (
        tensors(lambda found: found.pop("reward_network.0.bias")),
        ["do not fit TransitionValue", "missing ['reward_network.0.bias']"],
    ),
    "a weight too many": (
        tensors(lambda found: found.update(extra=torch.zeros(1))),
        ["unexpected ['extra']"],
    ),
    "a weight of another shape": (
        tensors(lambda found: found.update({"reward_network.0.bias": torch.zeros(3)})),
        ["'reward_network.0.bias' must have shape (8,)", "Got (3,)"],
    ),
    "newer format": (
        config(lambda content: content.update(format=FORMAT + 1)),
        [f"has format {FORMAT + 1}", "Install a newer pgdiff"],
    ),
    "no format": (config(lambda content: content.pop("format") and None), ["`format`", "Got None"]),
    "format in words": (config(lambda content: content.update(format="2")), ["Got '2'"]),
    "configuration that is a list": (config(lambda content: [1]), ["`format`", "Got None"]),
    "configuration nested without end": (_nested, ["config.json' is damaged", "not valid JSON"]),
    "no network described": (
        config(lambda content: content.pop("learner") and None),
        ["must name one of the networks", "Got None"],
    ),
    "unknown network": (put(name="transition_values"), ["must name one of the networks"]),
    "network that is a list": (
        config(lambda content: content.update(learner=["transition_value"])),
        ["must name one of the networks"],
    ),
    "unknown argument": (put(widht=8), ["Got 'widht'", "Did you mean 'width'"]),
    "missing argument": (
        config(lambda content: content["learner"].pop("stride") and None),
        ["needs `stride`"],
    ),
    "argument of another type": (put(stride="two"), ["`stride` must be an integer"]),
    "argument that is a dict": (put(depth={"a": 1}), ["`depth` must be an integer"]),
    "discount of 2": (put(discount=2.0), ["`discount`", "Got 2.0"]),
    "a callable to be called": (
        put(normalizer={"_target_": "os.system", "command": "touch executed"}),
        ["learner 'transition_value' cannot be built", "_target_"],
    ),
    "a kind that is a module": (
        put(normalizer={"kind": "os", "name": "system", "command": "touch executed"}),
        ["`kind` must be one of", "Got 'os'"],
    ),
    "a name that is a path": (
        put(normalizer={"kind": "normalizer", "name": "os.system"}),
        ["`normalizer` must be one of", "Got 'os.system'"],
    ),
    "a part of another kind": (
        put(normalizer={"kind": "noise_schedule", "name": "cosine"}),
        ["learner 'transition_value' cannot be built", "CosineSchedule"],
    ),
    "normaliser of another size": (
        put(
            normalizer={
                "kind": "normalizer",
                "name": "limits",
                "center": [0.0, 0.0],
                "scale": [1.0, 1.0],
            }
        ),
        ["do not fit TransitionValue"],
    ),
    "normaliser that divides by zero": (
        put(
            normalizer={
                "kind": "normalizer",
                "name": "limits",
                "center": [0.0] * 3,
                "scale": [1.0, 0.0, 1.0],
            }
        ),
        ["`scale`"],
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "value"
    _value(depth=1).save_pretrained(folder)
    return folder


def refused(name: str, act: Callable[[], Any], fragments: list[str]) -> None:
    """Check that `act` raises an error with the fragments; `name` is that of the case."""
    try:
        act()
    except PgdiffError as error:
        for fragment in fragments:
            assert fragment in str(error), name
    else:
        pytest.fail(f"{name}: nothing was raised")


def test_folders_of_networks(saved: Path, tmp_path: Path) -> None:
    for name, (spoil, fragments) in NETWORKS.items():
        folder = Path(shutil.copytree(saved, tmp_path / name / "value"))
        spoil(folder)
        before = sorted(folder.parent.rglob("*"))
        refused(name, lambda folder=folder: load_learner(folder, device="cpu"), fragments)
        assert sorted(folder.parent.rglob("*")) == before, f"{name}: something was run or written"


def test_another_network_than_requested(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match=r"must hold a SegmentValue\. Got a TransitionValue"):
        SegmentValue.from_pretrained(saved, device="cpu")
    with pytest.raises(PgdiffError, match="does not exist"):
        load_learner(tmp_path / "nowhere")
    with pytest.raises(PgdiffError, match="does not exist"):
        load_learner(saved / "config.json")


# -------------------------------------------------------------------------------------- checkpoints


def _drop(file: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / file).unlink()
        reseal(folder)

    return spoil


def state(**changes: Any) -> Spoil:
    return config(lambda content: content.update(changes), "trainer.json")


CHECKPOINTS: dict[str, tuple[Spoil, list[str]]] = {
    "no optimiser": (_drop("optimizer.safetensors"), ["must contain optimizer.safetensors"]),
    "no averages": (_drop("ema.safetensors"), ["must contain ema.safetensors"]),
    "no counters": (_drop("trainer.json"), ["must contain trainer.json"]),
    "NaN in the weights": (
        tensors(lambda found: found["weight"].fill_(NAN), "weights.safetensors"),
        ["'weight'", "must be finite"],
    ),
    "NaN in the averages": (
        tensors(lambda found: found["bias"].fill_(NAN), "ema.safetensors"),
        ["'bias'", "must be finite"],
    ),
    "NaN in the optimiser": (
        tensors(lambda found: found["0.exp_avg"].fill_(NAN), "optimizer.safetensors"),
        ["'0.exp_avg'", "must be finite"],
    ),
    "optimiser of more parameters": (
        tensors(lambda found: found.update({"9.exp_avg": torch.ones(3)}), "optimizer.safetensors"),
        ["does not fit the parameters", "'9.exp_avg'"],
    ),
    "optimiser of other shapes": (
        tensors(lambda found: found.update({"0.exp_avg": torch.ones(7)}), "optimizer.safetensors"),
        ["does not fit the parameters", "(7,)"],
    ),
    "weights of another network": (
        tensors(lambda found: found.update(more=torch.ones(7)), "weights.safetensors"),
        ["do not fit Regression", "unexpected ['more']"],
    ),
    "averages of another network": (
        tensors(lambda found: found.pop("bias"), "ema.safetensors"),
        ["do not fit Regression", "missing ['bias']"],
    ),
    "a pickle in place of the optimiser": (
        _pickle("optimizer.safetensors"),
        ["optimizer.safetensors' is not a safetensors file"],
    ),
    "step in words": (state(step="4"), ["trainer.json' is damaged"]),
    "step below zero": (state(step=-4), ["trainer.json' is damaged"]),
    "step of another checkpoint": (state(step=3), ["holds the checkpoint of step 3"]),
    "settings that are a list": (state(settings=[]), ["trainer.json' is damaged"]),
    "counters that are a list": (
        config(lambda content: [1], "trainer.json"),
        ["trainer.json' is damaged"],
    ),
    "newer format": (
        manifest(lambda content: content.update(format=FORMAT + 1)),
        [f"has format {FORMAT + 1}", "Install a newer pgdiff"],
    ),
    "other settings": (
        config(lambda content: content["settings"].update(batch_size=9), "trainer.json"),
        ["`batch_size` must be 9", "to resume exactly", "Got 8"],
    ),
    "other data of the same size": (
        config(lambda content: content["settings"].update(first_batch="0"), "trainer.json"),
        ["`episodes` must be identical", "to resume exactly"],
    ),
    "settings that do not exist": (
        config(lambda content: content["settings"].update(momentum=0.9), "trainer.json"),
        ["`momentum` must be 0.9", "Got None"],
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    trainer(folder=folder, checkpoint_every=4).fit(Regression(), make_episodes())
    return folder


def test_checkpoints(trained: Path, tmp_path: Path) -> None:
    episodes = make_episodes()
    for name, (spoil, fragments) in CHECKPOINTS.items():
        folder = Path(shutil.copytree(trained, tmp_path / name / "run"))
        spoil(folder / "checkpoints" / "step-00000004")
        metrics = (folder / "metrics.jsonl").read_bytes()
        before = sorted(folder.parent.rglob("*"))
        run = trainer(folder=folder, checkpoint_every=4, resume=True)
        refused(name, lambda run=run: run.fit(Regression(), episodes), fragments)
        assert sorted(folder.parent.rglob("*")) == before, name
        assert (folder / "metrics.jsonl").read_bytes() == metrics, name


def test_a_checkpoint_without_some_counters_is_resumed(trained: Path, tmp_path: Path) -> None:
    """Like those of the library before it counted skipped updates and stored the first batch."""

    def older(content: dict[str, Any]) -> None:
        for key in ("skipped", "skipped_in_a_row", "sums", "counted"):
            del content[key]
        del content["settings"]["first_batch"]

    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    config(older, "trainer.json")(folder / "checkpoints" / "step-00000004")
    run = trainer(folder=folder, checkpoint_every=4, resume=True)
    run.fit(Regression(), make_episodes())
    assert run.step == 4


# ------------------------------------------------------------------------------------- run folders

RUN = {
    "format": RUN_FORMAT,
    "status": "started",
    "task": {"name": "walk"},
    "recipe": "",
    "seed": 0,
    "data": {"path": "", "steps": 1, "episodes": 1},
    "stages": [
        {
            "name": "model",
            "learner": "trajectory_diffusion",
            "arguments": {},
            "trainer": {},
            "seed": 0,
            "finished": False,
        }
    ],
    "planner": {},
    "guides": {},
    "guide": None,
    "version": "0",
}

RUNS: dict[str, tuple[Any, list[str]]] = {
    "cut off": (b'{"format": 2, "sta', ["run.json' is damaged"]),
    "no JSON": (b"\x80\x04\x95", ["run.json' is damaged"]),
    "empty": (b"", ["run.json' is damaged"]),
    "a list": ([], ["run.json' is damaged"]),
    "newer format": ({"format": RUN_FORMAT + 1}, [f"format {RUN_FORMAT + 1}", "newer pgdiff"]),
    "no format": ({"format": None}, ["run.json' is damaged"]),
    "task that is a list": ({"task": ["walk"]}, ["run.json' is damaged", "`task`"]),
    "stages that are a number": ({"stages": 3}, ["run.json' is damaged"]),
    "stage without a name": ({"stages": [{}]}, ["run.json' is damaged"]),
    "stage that is a path": (
        {"stages": [{**RUN["stages"][0], "name": "../../etc"}]},  # type: ignore[index]
        ["run.json' is damaged", "'../../etc'"],
    ),
    "stage with more to say": (
        {"stages": [{**RUN["stages"][0], "_target_": "os.system"}]},  # type: ignore[index]
        ["run.json' is damaged", "_target_"],
    ),
}


def test_run_folders(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for name, (content, fragments) in RUNS.items():
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            whole = {**RUN, **content} if isinstance(content, dict) else content
            file.write_text(json.dumps(whole))
        refused(name, lambda: read_run(tmp_path), fragments)
        assert os.listdir(tmp_path) == ["run.json"], name
    file.write_text(json.dumps(RUN))
    assert read_run(tmp_path).stages[0].name == "model", "sound without a fault"
