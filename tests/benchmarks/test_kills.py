"""A small run of `kills.py` on one training."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import kills


@pytest.mark.slow
def test_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert kills.main(["--quick"]) == 0
    out = capsys.readouterr().out
    assert "10 SIGKILLs while saving: 0 unusable folders" in out
    assert "2 workers: 1 of 1 runs end equal to the whole one" in out


def test_it_notices_a_difference(tmp_path: Path) -> None:
    setting = kills.Setting(tmp_path / "data.hdf5", 10, 0)
    files = _names(setting.steps)
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    before = kills.fingerprint(tmp_path, setting.steps)
    assert sorted(before) == sorted(files)
    for name in files:
        (tmp_path / name).write_bytes(b"x")
        assert kills.fingerprint(tmp_path, setting.steps) != before
        (tmp_path / name).write_bytes(name.encode())


def _names(steps: int) -> list[str]:
    names = ["run.json"]
    for stage in kills.STAGES:
        last = f"logs/{stage}/checkpoints/step-{steps:08d}"
        names += [f"{stage}/model.safetensors", f"logs/{stage}/best/ema.safetensors"]
        names += [f"{last}/{part}.safetensors" for part in ("weights", "ema", "optimizer")]
        names += [f"{last}/trainer.json"]
    return names
