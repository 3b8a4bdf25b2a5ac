"""Files that cannot be loaded: one clear error that names the fault, and a fix if one exists."""

import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import DQN, PPO
from torch import Tensor
from zips import Drift, edit_json, make_model, read_zip, write_zip

from pgdiff.agents import Agent, load
from pgdiff.core.validation import PgdiffError

Members = dict[str, bytes]
LAYER = "actor.latent_pi.2.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = tmp_path_factory.mktemp("agent") / "agent.zip"
    make_model("SAC").save(path)
    return read_zip(path)


def refuse(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(PgdiffError, match=message):
        load(path, **({"device": "cpu"} | options))


def torch_file(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


# ------------------------------------------------------------------------------------- the file


def test_paths(tmp_path: Path, saved: Members) -> None:
    refuse(tmp_path / "absent.zip", r"'.*absent\.zip' does not exist")
    refuse(tmp_path, r"has no manifest\.json: it is incomplete, or pgdiff did not write it")
    (tmp_path / "text.zip").write_text("hello")
    refuse(tmp_path / "text.zip", r"text\.zip' must be an intact zip archive")
    (tmp_path / "empty.zip").write_bytes(b"")
    refuse(tmp_path / "empty.zip", r"empty\.zip' must be an intact zip archive")
    whole = write_zip(tmp_path / "whole.zip", saved).read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.zip").write_bytes(whole[: int(share * len(whole))])
        refuse(
            tmp_path / "cut.zip",
            r"cut\.zip' must be (an intact zip archive|a zip archive from its first byte)",
        )
    at = whole.index(b'"policy_class"')
    (tmp_path / "flipped.zip").write_bytes(whole[:at] + b"X" + whole[at + 1 :])
    refuse(tmp_path / "flipped.zip", r"must be an intact zip archive.*Bad CRC-32")


def spoil_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        stream = io.BytesIO(members["policy.pth"])
        weights = dict(torch.load(stream, weights_only=True))
        replaced = change(weights)
        members["policy.pth"] = torch_file(weights if replaced is None else replaced)

    return apply


def spoil_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    return lambda members: edit_json(members, lambda data: change(data))


def set_weight(name: str, value: Any) -> Callable[[Members], None]:
    return spoil_weights(lambda weights: weights.update({name: value}))


def poke(number: float) -> Callable[[Members], None]:
    def change(weights: dict[str, Tensor]) -> None:
        weights[LAYER][1, 2] = number

    return spoil_weights(change)


def set_module(module: str) -> Callable[[Members], None]:
    return spoil_json(lambda data: data["policy_class"].update(__module__=module))


def set_space(key: str, **printed: Any) -> Callable[[Members], None]:
    return spoil_json(lambda data: data[key].update(printed))


def set_kwargs(**printed: Any) -> Callable[[Members], None]:
    return spoil_json(lambda data: data["policy_kwargs"].update(printed))


FAULTS: dict[str, tuple[Callable[[Members], Any], str]] = {
    "no weights": (lambda m: m.pop("policy.pth"), r"has no 'policy\.pth'"),
    "no JSON": (lambda m: m.update(data=b"{oops"), r"member 'data'.*must be JSON"),
    "deep JSON": (lambda m: m.update(data=b"[" * 200_000), r"member 'data'.*must be JSON"),
    "a list": (lambda m: m.update(data=b"[1]"), r"must be a JSON object"),
    "nothing said": (lambda m: m.pop("data"), r"of the module a NoneType.*pass `algorithm=`"),
    "DQN": (set_module("stable_baselines3.dqn.policies"), r"must be an agent of one of SAC.*dqn"),
    "recurrent": (
        set_module("sb3_contrib.common.recurrent.policies"),
        r"must be an agent of one of SAC.*recurrent",
    ),
    "a user-defined policy": (set_module("__main__"), r"'__main__'.*pass `algorithm=`"),
    "another algorithm": (
        set_module("stable_baselines3.common.policies"),
        r"no weights 'action_net…'.*another algorithm.*Pass `algorithm=`",
    ),
    "activation": (
        set_kwargs(activation_fn="<class 'my_layers.Snake'>"),
        r"activation \"<class 'my_layers\.Snake'>\".*Pass `activation=`.*ReLU",
    ),
    "extractor": (
        set_kwargs(features_extractor_class="<class 'my_layers.Resnet'>"),
        r"custom features extractor.*Resnet.*pass the live model",
    ),
    "extractor's weights": (
        set_weight("actor.features_extractor.cnn.0.weight", torch.zeros(3, 3)),
        r"custom features extractor.*'actor\.features_extractor\.cnn\.0\.weight'",
    ),
    "NaN": (poke(float("nan")), r"'actor\.latent_pi\.2\.weight'.*must be finite"),
    "infinite": (poke(float("-inf")), r"'actor\.latent_pi\.2\.weight'.*must be finite"),
    "inner shape": (
        set_weight(LAYER, torch.zeros(8, 15)),
        r"'actor\.latent_pi\.2\.weight'.*must have shape \(8, 16\)\. Got \(8, 15\)",
    ),
    "bias's shape": (
        set_weight("actor.latent_pi.2.bias", torch.zeros(9)),
        r"'actor\.latent_pi\.2\.bias' must have shape \(8,\)\. Got \(9,\)",
    ),
    "target's shape": (
        set_weight("critic_target.qf1.0.weight", torch.zeros(2, 5)),
        r"'critic_target\.qf1\.0\.weight' must have shape \(16, 5\)\. Got \(2, 5\)",
    ),
    "odd critics": (
        set_weight("critic.qf1.2.weight", torch.zeros(9, 16)),
        r"'critic\.qf1\.4\.weight'.*must have shape \(1, 9\)\. Got \(1, 8\)",
    ),
    "critics that differ": (
        spoil_weights(
            lambda w: w.update(
                {
                    "critic.qf1.2.weight": torch.zeros(9, 16),
                    "critic.qf1.4.weight": torch.zeros(1, 9),
                }
            )
        ),
        r"critics.*same layers\. 'critic\.qf1' has \[5, 16, 9, 1\]",
    ),
    "critics of other inputs": (
        spoil_weights(
            lambda w: w.update({f"critic.qf{i}.0.weight": torch.zeros(16, 9) for i in range(2)})
        ),
        r"'critic\.qf0\.0\.weight'.*must have shape \(16, 5\)\. Got \(16, 9\)",
    ),
    # Each layer is small, but one from the first's inputs to the second's outputs is not.
    "layers that would be huge": (
        spoil_weights(
            lambda w: w.update(
                {
                    "actor.latent_pi.0.weight": torch.zeros(1, 10**6),
                    "actor.latent_pi.2.weight": torch.zeros(8, 1),
                    "critic.qf0.0.weight": torch.zeros(10**6, 1),
                }
            )
        ),
        r"'critic\.qf0\.0\.weight'.*must have shape \(1000000, 1000002\)\. Got \(1000000, 1\)",
    ),
    "many": (
        spoil_weights(lambda w: w.update({f"critic.qf{i}": torch.zeros(1) for i in range(2000)})),
        r"must contain at most 2000 tensors",
    ),
    "no matrix": (set_weight(LAYER, torch.zeros(8, 16, 1)), r"latent_pi\.2.*Got \(8, 16, 1\)"),
    "missing": (
        spoil_weights(lambda w: w.__delitem__("critic_target.qf1.0.bias")),
        r"missing \['critic_target\.qf1\.0\.bias'\]",
    ),
    "left over": (set_weight("extra", torch.zeros(3)), r"unexpected \['extra'\]"),
    "strides": (
        set_weight(LAYER, torch.zeros(1).expand(10**6, 10**6)),
        r"'actor\.latent_pi\.2\.weight'.*strides \(0, 0\), which do not fit its storage of 1 n",
    ),
    "integers": (
        set_weight("step", torch.zeros(3, dtype=torch.long)),
        r"has the name torch\.LongStorage",
    ),
    "a number": (set_weight("step", 3), r"floating-point tensors by name.*'step'"),
    "nested": (set_weight("a", {"b": torch.zeros(2)}), r"floating-point tensors.*'a'"),
    "a list of tensors": (spoil_weights(lambda w: list(w.values())), r"dictionary of tensors"),
    "a pickle": (
        lambda m: m.update({"policy.pth": pickle.dumps({"a": 1})}),
        r"policy\.pth' must be a zip archive.*is not opened",
    ),
    "an old format": (
        lambda m: m.update({"policy.pth": torch_file({}, _use_new_zipfile_serialization=False)}),
        r"format of PyTorch before 1\.6.*Stable-Baselines3 and save it again",
    ),
    "another protocol": (
        lambda m: m.update({"policy.pth": torch_file({}, pickle_protocol=4)}),
        r"pickle of protocol 2",
    ),
    "no weights at all": (lambda m: m.update({"policy.pth": torch_file({})}), r"no weights 'actor"),
    "discrete actions": (
        set_space("action_space", **{":type:": "<class 'gymnasium.spaces.discrete.Discrete'>"}),
        r"`action_space`.*must be a Box.*continuous actions.*Discrete",
    ),
    "dictionaries": (
        set_space("observation_space", **{":type:": "<class 'gymnasium.spaces.dict.Dict'>"}),
        r"`observation_space`.*must be a Box.*flat observations.*Dict",
    ),
    "images": (
        set_space("observation_space", _shape=[3, 64, 64]),
        r"`observation_space`.*one dimension.*\[3, 64, 64\]",
    ),
    "another size": (
        set_space("observation_space", _shape=[4]),
        r"`observation_space`.*shape \(4,\), but its weights have \(3,\)",
    ),
    "no space": (
        spoil_json(lambda data: data.pop("action_space")),
        r"does not describe its `action_space`\. Pass `action_space=`",
    ),
    "no sizes": (
        set_space("observation_space", _shape=[[3]]),
        r"does not describe its `observation_space`",
    ),
    "an activation in an activation": (set_kwargs(activation_fn=[["Tanh"]]), r"activation a list"),
    "bounds cut short": (
        set_space("action_space", low="[-1. -2. ... -1.]"),
        r"bounds of the `action_space`.*Pass `action_space=`",
    ),
    "no bounds": (set_space("action_space", low=None), r"bounds.*Pass `action_space=`"),
    "no numbers": (set_space("action_space", low="[-1. oops]"), r"bounds.*cannot be read"),
    "NaN bounds": (set_space("action_space", low="[-1. nan]"), r"bounds.*cannot be read"),
    "infinite bounds": (set_space("action_space", high="[inf inf]"), r"`action_space`.*finite"),
    "no width": (set_space("action_space", high="[-2. 9.]"), r"low < high"),
    "bounds the wrong way": (
        set_space("action_space", high="[-9. 9.]"),
        r"bounds of the `action_space`.*cannot be read",
    ),
}


def test_faults(saved: Members, tmp_path: Path) -> None:
    for fault, (spoil, message) in FAULTS.items():
        members = dict(saved)
        spoil(members)
        print(fault)
        refuse(write_zip(tmp_path / "agent.zip", members), message)


def test_a_script_of_torch(saved: Members, tmp_path: Path) -> None:
    inner = read_zip(
        write_zip(tmp_path / "policy.zip", {"p/data.pkl": b"", "p/constants.pkl": b""})
    )
    members = saved | {"policy.pth": write_zip(tmp_path / "i.zip", inner).read_bytes()}
    refuse(write_zip(tmp_path / "agent.zip", members), r"TorchScript program")


# -------------------------------------------------------------------------------------- arguments

WIDE = gym.spaces.Box(-1, 1, (5,))


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"algorithm": "sac"}, r"`algorithm` must be one of.*Got 'sac'"),
    ({"algorithm": "PPO"}, r"no weights 'action_net…'. It is of another algorithm"),
    ({"algorithm": "TD3"}, r"must have shape \(16, 10\)\. Got \(16, 5\)"),
    ({"activation": "relu"}, r"`activation` must be one of.*ReLU.*Got 'relu'"),
    ({"activation": 3}, r"`activation` must be a name or a class.*Got 3"),
    ({"action_space": WIDE}, r"`action_space` must be of shape \(2,\).*Got \(5,\)"),
    ({"observation_space": WIDE}, r"`observation_space` must be of shape \(3,\).*Got \(5,\)"),
    (
        {"action_space": gym.spaces.Discrete(2)},
        r"`action_space`.*Box of one dim.*Discrete\(2\)",
    ),
    ({"observation_space": 3}, r"`observation_space` must be a Gymnasium Box.*Got 3"),
    ({"device": "abacus"}, r"`device` must be 'auto'.*'abacus'"),
    ({"vec_normalize": "absent.pkl"}, r"'absent\.pkl' does not exist"),
]


def test_arguments(saved: Members, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "agent.zip", saved)
    for options, message in ARGUMENTS:
        refuse(path, message, **options)


def test_other_sources(tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match=r"`algorithm` must be left out for a live model"):
        load(make_model("SAC"), algorithm="SAC")
    with pytest.raises(PgdiffError, match=r"`device` must be left out for a live model"):
        load(make_model("SAC"), device="cpu")
    with pytest.raises(PgdiffError, match=r"`model` must be a model of.*Got a int"):
        load(3)

    class Buttons(Drift):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gym.spaces.Discrete(2)

    for algorithm, message in [
        (DQN, r"`model` must be a model of SAC.*Got a DQN"),
        (PPO, r"`action_space`.*Box of one dimension.*Discrete\(2\)"),
    ]:
        with pytest.raises(PgdiffError, match=message):
            load(algorithm("MlpPolicy", Buttons(), device="cpu"))

    class Goals(Drift):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = gym.spaces.Dict(at=self.observation_space)

        def reset(self, **options: Any) -> Any:
            return {"at": np.zeros(3, np.float32)}, {}

    with pytest.raises(PgdiffError, match=r"`observation_space`.*flat observations.*Dict"):
        load(PPO("MultiInputPolicy", Goals(), device="cpu"))
    recurrent = RecurrentPPO("MlpLstmPolicy", Drift(), device="cpu")
    with pytest.raises(PgdiffError, match=r"`model` must be a model of.*Got a RecurrentPPO"):
        load(recurrent)
    for policy in (recurrent.policy, 3):
        with pytest.raises(PgdiffError, match=r"`policy` must be a policy of SAC"):
            Agent(policy, algorithm="PPO")
    TRPO("MlpPolicy", Drift(), device="cpu").save(tmp_path / "trpo.zip")
    refuse(tmp_path / "trpo.zip", r"must be an agent of one of SAC")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in (
        ("SAC", "stable_baselines3.sac.policies"),
        ("TQC", "sb3_contrib.tqc.policies"),
    ):
        make_model(name).save(tmp_path / "agent.zip")
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            package = module.partition(".")[0]
            refuse(tmp_path / "agent.zip", rf"'{package}'.*pip install 'pgdiff-rl\[sb3\]'")
