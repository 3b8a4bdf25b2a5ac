"""Shards: independent of the processes, resumable, hashed, and never mixed."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from line_world import Right, Undefined, model, recording

import pgdiff
from pgdiff import PgdiffError, Sampling, Trainer
from pgdiff.guides import Policy
from pgdiff.synthesis import ShardFolder, ShardSampler, Workers, write_part

TESTS = Path(__file__).parents[1]
TWO = Sampling(steps=2)
SMALL: dict[str, Any] = {"batch": 8, "sampling": TWO}


def sums(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.glob("*.hdf5"))
    }


@pytest.mark.parametrize("horizon", [8, 1])
def test_rows_are_sound_and_as_many_as_requested(tmp_path: Path, horizon: int) -> None:
    out = tmp_path / "data.hdf5"
    episodes = pgdiff.generate(model(horizon=horizon), transitions=100, out=out, **SMALL)
    assert episodes.steps >= 100
    assert pgdiff.check(out) == []
    assert np.abs(episodes.actions).max() <= 1
    assert episodes.next_observations is not None
    shards = ShardFolder(tmp_path / "data.hdf5.shards")
    total = sum(shards.counts(n).transitions for n in shards.finished())  # type: ignore[union-attr]
    assert total == episodes.steps
    # The smallest number of whole shards.
    last = shards.counts(shards.finished()[-1])
    assert last is not None
    assert total - last.transitions < 100


def test_in_memory_is_what_would_be_written(tmp_path: Path) -> None:
    written = pgdiff.generate(model(), transitions=90, out=tmp_path / "a.hdf5", **SMALL)
    here = pgdiff.generate(model(), transitions=90, **SMALL)
    for name, values in written.fields().items():
        assert np.array_equal(values, here.fields()[name]), name


def test_shards_depend_on_seed_and_number_alone(tmp_path: Path) -> None:
    made = {}
    for name, settings in {
        "one": {"transitions": 200},
        "two": {"transitions": 200, "workers": 2},
        "fewer": {"transitions": 100},
        "other": {"transitions": 200, "seed": 1},
    }.items():
        pgdiff.generate(model(), out=tmp_path / f"{name}.hdf5", **SMALL, **settings)
        made[name] = sums(tmp_path / f"{name}.hdf5.shards")
    assert made["one"] == made["two"]
    assert made["fewer"].items() <= made["one"].items()
    assert not set(made["one"].values()) & set(made["other"].values())
    assert (tmp_path / "one.hdf5").read_bytes() == (tmp_path / "two.hdf5").read_bytes()


def test_going_on_makes_no_shard_twice(tmp_path: Path) -> None:
    out = tmp_path / "data.hdf5"
    pgdiff.generate(model(), transitions=60, out=out, **SMALL)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path).rglob("0*.hdf5")}
    pgdiff.generate(model(), transitions=150, out=out, on_existing="resume", **SMALL)
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())
    whole = pgdiff.generate(model(), transitions=150, **SMALL)
    assert np.array_equal(pgdiff.load_episodes(out).observations, whole.observations)


def test_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system refuses files as large as the largest shard."""
    settings = SMALL | {"transitions": 2000, "batch": 64}
    pgdiff.generate(model(), out=tmp_path / "whole.hdf5", **settings)
    shards = sorted((tmp_path / "whole.hdf5.shards").glob("0*.hdf5"))
    sizes = [file.stat().st_size for file in shards]
    number = int(np.argmax(sizes))
    assert number and max(sizes) > max(sizes[:number])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) - 1, before[1]))
    try:
        with pytest.raises(PgdiffError, match=f"The {number} finished shards are kept"):
            pgdiff.generate(model(), out=tmp_path / "cut.hdf5", **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = sums(tmp_path / "cut.hdf5.shards")
    assert len(left) == number
    assert left.items() <= sums(tmp_path / "whole.hdf5.shards").items()
    assert not list((tmp_path / "cut.hdf5.shards").glob(".*"))
    with monkeypatch.context() as patch:
        nothing = shutil.disk_usage(tmp_path)._replace(free=1000)
        patch.setattr(shutil, "disk_usage", lambda path: nothing)
        with pytest.raises(PgdiffError, match="All shards are kept"):
            pgdiff.generate(model(), out=tmp_path / "cut.hdf5", on_existing="resume", **settings)
    assert not (tmp_path / "cut.hdf5").exists()
    pgdiff.generate(model(), out=tmp_path / "cut.hdf5", on_existing="resume", **settings)
    assert (tmp_path / "cut.hdf5").read_bytes() == (tmp_path / "whole.hdf5").read_bytes()


def test_jobs_share_a_data_set(tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole.hdf5", tmp_path / "shared.hdf5"
    pgdiff.generate(model(), transitions=300, out=whole, **SMALL)
    sampler = ShardSampler(model=model(), batch=8, sampling=TWO)
    for part in (2, 0, 1):
        write_part(sampler, transitions=300, out=shared, part=part, parts=3)
    assert not shared.exists()
    made = ShardFolder(tmp_path / "shared.hdf5.shards")
    counts = [made.counts(number) for number in made.finished()]
    assert sum(one.transitions for one in counts if one is not None) >= 300
    before = sums(made.path)
    pgdiff.generate(model(), transitions=300, out=shared, on_existing="resume", **SMALL)
    assert shared.read_bytes() == whole.read_bytes()
    assert before.items() <= sums(made.path).items()
    with pytest.raises(PgdiffError, match="`part` must be 0 to 2"):
        write_part(sampler, transitions=300, out=shared, part=3, parts=3)
    with pytest.raises(PgdiffError, match="`parts` must be"):
        write_part(sampler, transitions=300, out=shared, part=0, parts=0)
    other = ShardSampler(model=model(), batch=8, sampling=Sampling(steps=3))
    with pytest.raises(PgdiffError, match="`sampling` must equal the setting"):
        write_part(other, transitions=300, out=shared, part=0, parts=3)


def compiles() -> bool:
    """Return True if torch.compile works: it needs a C++ compiler, and paths without spaces."""
    from torch._dynamo.exc import TorchDynamoException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's warnings about its modules
        try:
            torch.compile(lambda x: x.sin() + 1)(torch.zeros(3))
        except TorchDynamoException:
            return False
    return True


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile
def test_compiled_networks_make_the_same_rows() -> None:
    plain = pgdiff.generate(model(), transitions=100, **SMALL)
    try:
        compiled = pgdiff.generate(model(), transitions=100, workers=Workers(compile=True), **SMALL)
    except PgdiffError as error:
        if compiles():
            raise
        assert "`compile` must be False here" in str(error)
        if any(" " in path for path in (torch.__file__, tempfile.gettempdir())):
            assert "the space in '" in str(error)
        return
    for name, values in plain.fields().items():
        np.testing.assert_allclose(compiled.fields()[name], values, atol=1e-4, err_msg=name)
    # A model that was compiled earlier gives equal samples without compilation.
    other = model()
    pgdiff.generate(other, transitions=10, workers=Workers(compile=True), **SMALL)
    (call,) = {part._compiled_call_impl for part in other.children()} - {None}
    again = pgdiff.generate(other, transitions=100, **SMALL)
    assert call in {part._compiled_call_impl for part in other.children()}
    for name, values in plain.fields().items():
        assert np.array_equal(again.fields()[name], values), name


@pytest.mark.slow
def test_kills_leave_the_same_shards(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {[str(TESTS / "synthesis"), str(TESTS / "model")]!r}
        import pgdiff
        from line_world import model
        pgdiff.generate(model(), transitions=4000, out={str(tmp_path / "killed.hdf5")!r}, batch=8,
                        sampling=pgdiff.Sampling(steps=2), on_existing="resume")
        """
    )
    wait = np.random.default_rng(0).uniform(4.0, 8.0, 10)
    for seconds in wait:
        run = subprocess.Popen([sys.executable, "-c", script], cwd=Path.cwd())
        time.sleep(float(seconds))
        run.send_signal(signal.SIGKILL)
        run.wait()
    subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))
    pgdiff.generate(model(), transitions=4000, out=tmp_path / "whole.hdf5", **SMALL)
    assert sums(tmp_path / "killed.hdf5.shards") == sums(tmp_path / "whole.hdf5.shards")
    assert (tmp_path / "killed.hdf5").read_bytes() == (tmp_path / "whole.hdf5").read_bytes()


def test_a_policy_makes_its_actions_likelier() -> None:
    learned = model(untrained_size=0.0)
    Trainer(steps=150, batch_size=64, learning_rate=3e-3, progress=False, device="cpu").fit(
        learned, recording()
    )
    settings = {"batch": 128, "sampling": Sampling(steps=8)}
    plain = pgdiff.generate(learned, transitions=800, **settings)
    guided = pgdiff.generate(learned, transitions=800, guides=[Policy(Right())], **settings)
    likely = [
        float(Right().log_prob(torch.tensor([[0.0]]), torch.as_tensor(np.array(e.actions))).mean())
        for e in (plain, guided)
    ]
    print(f"\nlog-likelihood of actions: {likely[0]:.2f} unguided, {likely[1]:.2f} guided")
    assert likely[1] > likely[0] + 0.2


def make(out: Path, **settings: Any) -> None:
    given = SMALL | {"transitions": 60, "out": out} | settings
    pgdiff.generate(given.pop("model", None) or model(), **given)


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(PgdiffError, match="`threads` must be"):
        Workers(threads=0)
    for settings, message in (
        ({"transitions": 0}, "`transitions` must be"),
        ({"transitions": 1.5}, "`transitions` must be"),
        ({"workers": 0}, "`workers` must be"),
        ({"batch": 0}, "`batch` must be"),
        ({"sampling": 2}, "`sampling` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"workers": {"processes": 2}}, "`workers` must be"),
        ({"on_existing": "go on"}, "`on_existing` must be"),
        ({"guides": ["policy"]}, "`guides` must have"),
        ({"guides": [Policy(Undefined())]}, "Shard 0 cannot be sampled.*'policy' of scale 1"),
    ):
        with pytest.raises(PgdiffError, match=message):
            make(tmp_path / "data.hdf5", **settings)
        assert not list(tmp_path.iterdir())


def test_existing_files_are_not_overwritten_without_request(tmp_path: Path) -> None:
    out = tmp_path / "data.hdf5"
    make(out)
    with pytest.raises(PgdiffError, match=r"exists. Pass on_existing=.resume. to continue it"):
        make(out)
    make(out, on_existing="overwrite", seed=3)
    with pytest.raises(PgdiffError, match=r"`seed` must equal the setting .* 3. Got 0"):
        make(out, on_existing="resume")
    with pytest.raises(PgdiffError, match="`guides` must equal the setting"):
        make(out, on_existing="resume", seed=3, guides=[Policy(Right())])
    with pytest.raises(PgdiffError, match="`model` must equal the setting"):
        make(out, on_existing="resume", seed=3, model=model(untrained_size=0.2))
    with pytest.raises(PgdiffError, match="`out` must be a file"):
        make(tmp_path)


def test_other_data_are_not_taken_for_what_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "recorded.hdf5"
    out.write_bytes(b"mine")
    with pytest.raises(PgdiffError, match="exists without its shards"):
        make(out, on_existing="resume")
    assert out.read_bytes() == b"mine"


class Leaning(torch.nn.Module):
    """A policy whose mean is a plain attribute."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean = mean

    def log_prob(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return -(action - self.mean).square().sum(dim=-1)


def limited(observations: np.ndarray, *, limit: float) -> np.ndarray:
    over: np.ndarray = observations[..., 0] > limit
    return over


def test_what_shards_depend_on_is_more_than_tensors(tmp_path: Path) -> None:
    out = tmp_path / "data.hdf5"
    given: dict[str, Any] = {
        "guides": [Policy(Leaning(0.5))],
        "termination": partial(limited, limit=np.float32(50.0)),
    }
    make(out, **given)
    make(out, on_existing="resume", **given)
    with pytest.raises(PgdiffError, match="`guides` must equal the setting"):
        make(out, on_existing="resume", **(given | {"guides": [Policy(Leaning(-0.5))]}))
    with pytest.raises(PgdiffError, match="`termination` must equal the setting"):
        make(out, on_existing="resume", **(given | {"termination": partial(limited, limit=60.0)}))


def test_a_damaged_shard_is_found(tmp_path: Path) -> None:
    out = tmp_path / "data.hdf5"
    make(out)
    shard = tmp_path / "data.hdf5.shards" / "00000.hdf5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(PgdiffError, match=r"00000.hdf5' is missing or damaged"):
        make(out, on_existing="resume")
    note = shard.with_suffix(".json")
    kept = json.loads(note.read_text())["sha256"]
    note.unlink()
    make(out, on_existing="resume")
    assert hashlib.sha256(shard.read_bytes()).hexdigest() == kept


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises((PgdiffError, OSError), match="file"):
        make(blocked / "data.hdf5")
