"""Checkpoints with flipped bits, cut off, mixed up or tampered with are never resumed."""

import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from regression import Regression, make_episodes

from pgdiff.core.serialization import read_folder
from pgdiff.core.validation import PgdiffError
from pgdiff.training import Trainer, list_checkpoints
from pgdiff.training.checkpoint import (
    EMA,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    TrainingState,
    restore_checkpoint,
)
from pgdiff.training.ema import AveragedLearner

OLD, NEW = "step-00000010", "step-00000020"
FILES = ("manifest.json", STATE, WEIGHTS, EMA, OPTIMIZER)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run = Trainer(
        steps=20, checkpoint_every=10, batch_size=8, folder=folder, progress=False, device="cpu"
    )
    run.fit(Regression(noise=0.1), make_episodes())
    return folder / "checkpoints"


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "checkpoints"))


def restored(root: Path) -> int:
    """Return the step from which a training would resume; skipped checkpoints cause warnings."""
    learner = Regression(seed=5)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad])
    state = TrainingState(learner, AveragedLearner(learner, decay=0.9), optimizer)
    settings = read_settings(root)
    restore_checkpoint(root, state, settings)
    assert all(value.isfinite().all() for value in learner.state_dict().values())
    return state.step


def read_settings(root: Path) -> dict:
    json_files, _ = read_folder(root / OLD, json_names=[STATE], tensor_names=[])
    return json_files[STATE]["settings"]


def test_every_flipped_byte_is_found(made: Path, tmp_path: Path) -> None:
    folder, flips = Path(shutil.copytree(made / NEW, tmp_path / NEW)), 0
    for name in FILES:
        whole = (folder / name).read_bytes()
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << (position % 8)
            (folder / name).write_bytes(flipped)
            flips += 1
            with pytest.raises(PgdiffError, match=r"\.json|\.safetensors"):
                read_folder(folder, json_names=[STATE], tensor_names=[WEIGHTS, EMA, OPTIMIZER])
        (folder / name).write_bytes(whole)
    print(f"\n{flips} flipped bits, none passed")
    assert flips > 2000


def again(root: Path, made: Path) -> None:
    """Restore the checkpoint that was set aside."""
    shutil.rmtree(root / f"{NEW}.damaged")
    shutil.copytree(made / NEW, root / NEW)


def test_cut_off_anywhere_the_one_before_is_used(made: Path, root: Path) -> None:
    for name in FILES:
        for share in (0.0, 0.01, 0.5, 0.999):
            file = root / NEW / name
            file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
            with pytest.warns(UserWarning, match=rf"{NEW}/{name}.* Resuming from .*'.*{OLD}'"):
                assert restored(root) == 10
            assert {entry.name for entry in root.iterdir()} == {OLD, f"{NEW}.damaged"}
            again(root, made)


def test_random_flips_anywhere_the_one_before_is_used(root: Path) -> None:
    draw = random.Random(0)
    whole = {name: (root / NEW / name).read_bytes() for name in FILES}
    for _ in range(30):
        name = draw.choice(FILES)
        flipped = bytearray(whole[name])
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        (root / NEW / name).write_bytes(flipped)
        with pytest.warns(UserWarning, match=f"{NEW}.* Resuming from"):
            assert restored(root) == 10
        (root / f"{NEW}.damaged").rename(root / NEW)
        (root / NEW / name).write_bytes(whole[name])
    assert restored(root) == 20


def test_a_file_of_another_checkpoint_and_a_missing_file(made: Path, root: Path) -> None:
    for name in FILES:
        shutil.copy(root / OLD / name, root / NEW / name)
        with pytest.warns(UserWarning, match=f"{NEW}.* is damaged.* Resuming from"):
            assert restored(root) == 10
        again(root, made)
        (root / NEW / name).unlink()
        with pytest.warns(UserWarning, match=rf"{NEW}.*{name}.* Resuming from"):
            assert restored(root) == 10
        again(root, made)


def test_a_whole_checkpoint_under_another_name(root: Path) -> None:
    shutil.copytree(root / OLD, root / "step-00000099")
    with pytest.warns(UserWarning, match="'.*99' holds the checkpoint of step 10: .*renamed"):
        assert restored(root) == 20


def test_files_that_nobody_wrote_are_not_looked_at(root: Path) -> None:
    (root / NEW / "notes.txt").write_text("mine")
    (root / NEW / "weights.pkl").write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    (root / "readme").write_text("mine")
    (root / "step-latest").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restored(root) == 20


def test_what_killed_processes_left_is_swept(root: Path) -> None:
    for name in (".step-00000020.partial", ".step-00000030.partial"):
        shutil.copytree(root / OLD, root / name)
    assert restored(root) == 20
    assert {entry.name for entry in root.iterdir()} == {OLD, NEW}


def test_order_is_by_number(tmp_path: Path) -> None:
    for name in ("step-100000000", "step-99999999", "step-00000005"):
        (tmp_path / name).mkdir()
    assert [int(p.name[5:]) for p in list_checkpoints(tmp_path)] == [5, 99999999, 100000000]
