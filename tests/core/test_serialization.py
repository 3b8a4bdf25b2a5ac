"""Parts by name, and folders that are either whole or absent."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pgdiff.core import registry, serialization
from pgdiff.core.registry import (
    create,
    from_config,
    register,
    registered,
    to_config,
    with_module,
)
from pgdiff.core.serialization import load_folder, load_weights, resolve_device, save_folder
from pgdiff.core.validation import PgdiffError


@register("test_shape", "circle")
@dataclass(frozen=True)
class Circle:
    radius: float
    label: str = "round"


@register("test_shape", "group")
@dataclass(frozen=True)
class Group:
    members: Any
    options: Any = None


@register("test_network", "tiny")
class Tiny(nn.Module):
    def __init__(self, *, width: int = 3) -> None:
        super().__init__()
        self.width = width
        self.layer = nn.Linear(width, width)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
keys = st.text().filter(lambda key: key != "kind")


def _values(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(keys, children, max_size=3)
        | st.builds(Group, children, children)
        | st.builds(Circle, st.floats(allow_nan=False, allow_infinity=False), st.text())
    )


@settings(max_examples=50)
@given(st.recursive(scalars, _values, max_leaves=8), st.recursive(scalars, _values, max_leaves=4))
def test_registry_round_trip_through_json(members: Any, options: Any) -> None:
    group = Group(members, options)
    config = json.loads(json.dumps(to_config(group)))
    assert from_config("test_shape", config) == group


def test_config_of_a_part_and_of_a_network() -> None:
    named = {"name": "circle", "import": __name__, "label": "round"}
    assert to_config(Circle(2.0)) == {**named, "radius": 2.0}
    inner = to_config(Group((Circle(1.0),)))["members"][0]
    assert inner == {**named, "kind": "test_shape", "radius": 1.0}
    rebuilt = from_config("test_network", to_config(Tiny(width=5)))
    assert isinstance(rebuilt, Tiny) and rebuilt.width == 5
    assert set(registered("test_shape")) == {"circle", "group"}
    assert registered("no such kind") == {}
    assert create("test_shape", "circle", radius=1.5) == Circle(1.5)


def test_wrong_configurations_are_refused() -> None:
    cases: list[tuple[str, Any, str]] = [
        ("test_shap", {"name": "circle"}, "Did you mean 'test_shape'"),
        ("test_shape", {"name": "cirle", "radius": 1.0}, "Did you mean 'circle'"),
        ("test_shape", {"name": "circle", "radus": 1.0}, "Did you mean 'radius'.* Got 'radus'"),
        ("test_shape", {"name": "circle"}, "needs `radius`"),
        ("test_shape", {"radius": 1.0}, "dict with a 'name'"),
        ("test_shape", ["circle"], "dict with a 'name'"),
        ("test_shape", {"name": "group", "members": {"kind": "os", "name": "system"}}, "`kind`"),
        ("test_network", {"name": "tiny", "width": "wide"}, "cannot be built"),
    ]
    for kind, config, message in cases:
        with pytest.raises(PgdiffError, match=message):
            from_config(kind, config)


@pytest.mark.parametrize("kind", ["denoiser", "learner"])
@pytest.mark.parametrize(
    ("module", "fix"),
    [("my_parts.networks", "import my_parts.networks"), ("__main__", "Define it in this program")],
)
def test_a_user_class_names_its_module(
    kind: str, module: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module's name is text: reading never imports it."""

    @dataclass(frozen=True)
    class Own:
        width: int = 3

    Own.__module__ = module
    before = dict(registry._REGISTRY.get(kind, {}))
    with monkeypatch.context() as patch:
        patch.setitem(registry._REGISTRY, kind, {**before, "own": Own})
        patch.setitem(registry._NAMES, Own, (kind, "own"))
        config = json.loads(json.dumps(to_config(Own(5))))
        assert config == {"name": "own", "import": module, "width": 5}
        assert from_config(kind, config) == Own(5)
        assert with_module(kind, "own") == {"name": "own", "import": module}
        assert with_module(kind, {"name": "own", "width": 4}) == {**config, "width": 4}
    monkeypatch.setitem(registry._REGISTRY, kind, before)
    with pytest.raises(PgdiffError) as caught:
        from_config(kind, config)
    assert "my_parts" not in sys.modules
    assert f"The {kind} 'own' must be registered" in str(caught.value)
    assert f"from the module '{module}'" in str(caught.value) and fix in str(caught.value)


def test_values_that_json_cannot_hold_are_refused_by_name() -> None:
    for value in (float("nan"), {1, 2}, [1], torch.zeros(1, 1), {"kind": 1}, {1: 2}):
        with pytest.raises(PgdiffError, match=r"group\.members\[0\]"):
            to_config(Group((value,)))


def test_a_vector_comes_back_as_a_tuple() -> None:
    config = to_config(Group(torch.tensor([0.1, 2.0])))
    back = from_config("test_shape", json.loads(json.dumps(config))).members
    assert isinstance(back, tuple) and torch.equal(torch.tensor(back), torch.tensor([0.1, 2.0]))


def test_unregistered_taken_and_loose_classes_are_refused() -> None:
    with pytest.raises(PgdiffError, match="not registered"):
        to_config(object())
    with pytest.raises(PgdiffError, match="unique among"):
        register("test_shape", "circle")(Group)

    @register("test_loose", "loose")
    class Loose:
        def __init__(self, **kwargs: Any) -> None: ...

    with pytest.raises(PgdiffError, match="cannot be registered"):
        create("test_loose", "loose")


def _tensors() -> dict[str, torch.Tensor]:
    tied = torch.arange(6.0).reshape(2, 3)
    return {
        "weight": tied,
        "tied": tied.T,
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }


def test_folder_round_trip(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    save_folder(folder, {"a": (1, 2), "name": "x"}, _tensors())
    config, tensors = load_folder(folder)
    assert (
        config["a"] == [1, 2] and config["format"] == serialization.FORMAT and "version" in config
    )
    assert tensors.keys() == _tensors().keys()
    for name, tensor in _tensors().items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"]


def test_same_content_same_bytes_and_replacing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_folder(tmp_path / name, {"a": 1}, _tensors())
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    save_folder(tmp_path / "one", {"a": 2}, {"w": torch.zeros(1)})
    config, tensors = load_folder(tmp_path / "one")
    assert config["a"] == 2 and list(tensors) == ["w"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_every_flipped_byte_is_refused_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_folder(folder, {"a": 1, "list": [0.5, None]}, {"w": torch.arange(4.0)})
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << (position % 8)
            file.write_bytes(flipped)
            with pytest.raises(PgdiffError, match=r"\.json|\.safetensors"):
                load_folder(folder)
        file.write_bytes(whole[:-1])
        with pytest.raises(PgdiffError, match=file.name):
            load_folder(folder)
        file.write_bytes(whole)
    load_folder(folder)


def test_missing_and_half_written_folders(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(PgdiffError, match="does not exist"):
        load_folder(folder)
    (tmp_path / ".model.partial").mkdir()
    with pytest.raises(PgdiffError, match="unfinished write"):
        load_folder(folder)
    save_folder(folder, {}, _tensors())
    (folder / "model.safetensors").unlink()
    with pytest.raises(PgdiffError, match=r"model\.safetensors' is missing"):
        load_folder(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(PgdiffError, match=r"no manifest\.json"):
        load_folder(folder)


def test_a_replacement_cut_between_its_renames_is_readable(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_folder(folder, {"a": 1}, {})
    folder.rename(tmp_path / ".model.previous")
    assert load_folder(folder)[0]["a"] == 1
    save_folder(folder, {"a": 2}, {})
    assert load_folder(folder)[0]["a"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "old", {"a": 1}, {})
    now = serialization.FORMAT
    monkeypatch.setattr(serialization, "FORMAT", now + 1)
    assert load_folder(tmp_path / "old")[0]["format"] == now
    save_folder(tmp_path / "new", {}, {})
    monkeypatch.setattr(serialization, "FORMAT", now)
    with pytest.raises(PgdiffError, match=rf"format {now + 1}; this pgdiff .* up to {now}"):
        load_folder(tmp_path / "new")


def test_bad_weights_are_refused_by_name_on_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"good": torch.ones(2), "bad": torch.tensor([1.0, float("nan")])}
    with pytest.raises(PgdiffError, match="'bad'"):
        save_folder(tmp_path / "model", {}, bad)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(serialization, "_check_finite", lambda *_: None)
        save_folder(tmp_path / "model", {}, bad)
    with pytest.raises(PgdiffError, match="'bad'"):
        load_folder(tmp_path / "model")


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(PgdiffError, match=r"thesis\.tex"):
        save_folder(tmp_path / "home", {}, {})
    with pytest.raises(PgdiffError, match="Got a file"):
        save_folder(tmp_path / "home" / "thesis.tex", {}, {})
    save_folder(tmp_path / "model", {}, {})
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(PgdiffError, match=r"notes\.txt"):
        save_folder(tmp_path / "model", {}, {})
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def test_a_failed_write_leaves_the_old_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(tmp_path / "model", {"a": 1}, {})

    def full(file: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serialization, "_write_synced", full)
    with pytest.raises(PgdiffError, match=r"model' \(\d+ bytes\).*No space"):
        save_folder(tmp_path / "model", {"a": 2}, {})
    with pytest.raises(PgdiffError, match="finite JSON values"):
        save_folder(tmp_path / "model", {"a": float("inf")}, {})
    assert load_folder(tmp_path / "model")[0]["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_manifest_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    save_folder(tmp_path / "model", {}, {})
    (tmp_path / "secret").write_text("x")
    file = tmp_path / "model" / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest["files"]["../secret"] = manifest["files"].pop("config.json")
    file.write_bytes(serialization._json_bytes(manifest, "manifest"))
    with pytest.raises(PgdiffError, match="damaged"):
        load_folder(tmp_path / "model")


def test_a_file_that_was_never_written_is_named(tmp_path: Path) -> None:
    serialization.write_folder(tmp_path / "odd", json_files={"a.json": [1]}, tensor_files={})
    with pytest.raises(PgdiffError, match=r"must contain config\.json"):
        load_folder(tmp_path / "odd")


def test_load_weights_names_what_does_not_fit() -> None:
    tiny = Tiny(width=2)
    weights = {name: torch.ones_like(t) for name, t in tiny.state_dict().items()}
    before = tiny.layer.weight.clone()
    with pytest.raises(PgdiffError, match=r"layer\.bias"):
        load_weights(tiny, {"layer.weight": weights["layer.weight"]})
    with pytest.raises(PgdiffError, match=r"layer\.bias' must have shape \(2,\)"):
        load_weights(tiny, {**weights, "layer.bias": torch.ones(3)})
    assert torch.equal(tiny.layer.weight, before)
    load_weights(tiny, weights)
    assert torch.equal(tiny.layer.weight, torch.ones(2, 2))


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    for wrong in ("gpu", "cuda:99", ""):
        with pytest.raises(PgdiffError, match="`device`"):
            resolve_device(wrong)


KILLER = """
import os, random, signal, sys, time, torch
from pgdiff.core.serialization import load_folder, save_folder

def write_without_end(path, whole):
    count = 0
    while True:
        save_folder(path, {"count": count}, {"w": torch.full((20000,), float(count))})
        os.write(whole, b".")
        count += 1

delays = random.Random(0)
for kill in range(int(sys.argv[2])):
    reads, whole = os.pipe()
    child = os.fork()
    if child == 0:
        write_without_end(sys.argv[1], whole)
    os.read(reads, 1)
    time.sleep(delays.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads), os.close(whole)
    config, tensors = load_folder(sys.argv[1])
    assert tensors["w"].eq(config["count"]).all(), kill
print("survived")
"""


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_while_writing_leaves_a_whole_folder(kills: int, tmp_path: Path) -> None:
    """One folder is replaced without end and killed at many moments: old or new, never neither."""
    root = Path(serialization.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "model"), str(kills)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert killer.stdout.strip() == "survived", killer.stderr
    hidden = {p.name for p in tmp_path.iterdir()} - {"model"}
    assert hidden <= {".model.partial", ".model.previous"}


def test_a_folder_replaced_by_halves_is_recovered(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert not serialization.recover_folder(folder)
    save_folder(folder, {"a": 1}, {})
    folder.rename(tmp_path / ".model.previous")
    (tmp_path / ".model.partial").mkdir()
    assert serialization.recover_folder(folder) and load_folder(folder)[0]["a"] == 1
    save_folder(tmp_path / ".model.previous", {"a": 0}, {})
    assert serialization.recover_folder(folder) and load_folder(folder)[0]["a"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_file_appears_whole_and_a_killed_write_leaves_one_sibling(tmp_path: Path) -> None:
    file = serialization.write_whole(tmp_path / "new" / "run.json", "größe")
    assert file.read_text(encoding="utf-8") == "größe"
    (file.parent / ".run.json.partial").write_text("half a")  # of a process that was killed
    serialization.write_whole(file, b"2")
    assert file.read_bytes() == b"2" and list(file.parent.iterdir()) == [file]
    with pytest.raises(PgdiffError, match=r"Cannot write '.*run\.json/a' \(3 bytes\)"):
        serialization.write_whole(file / "a", "abc")
