"""A full disk: earlier checkpoints stay valid, and the error names the file to be written.

Files are limited in size by the operating system (RLIMIT_FSIZE), at many sizes, in child processes.
"""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pgdiff.training
from pgdiff.core.serialization import write_whole
from pgdiff.core.validation import PgdiffError
from pgdiff.training.loggers import AppendingFile

LIMITED = """
import json, os, resource, shutil, sys, warnings
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from regression import Regression, make_episodes
from pgdiff.training import Trainer, TrainingInterrupted
from pgdiff.core.validation import PgdiffError

root, episodes = Path(sys.argv[2]), make_episodes()
warnings.simplefilter("ignore")

def fit(folder, **settings):
    Trainer(steps=40, batch_size=4, checkpoint_every=5, log_every=10, folder=folder, progress=False,
            device="cpu", **settings).fit(Regression(noise=0.1), episodes)

def cut(folder):
    from pgdiff.training import Callback
    class Stop(Callback):
        def on_step(self, step, metrics):
            if step == 12:
                raise KeyboardInterrupt
    try:
        fit(folder, callbacks=[Stop()])
    except KeyboardInterrupt:
        pass

fit(root / "whole")
cut(root / "cut")
for size in map(int, sys.argv[3].split(",")):
    folder = root / f"run{size}"
    shutil.copytree(root / "cut", folder)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            fit(folder, resume=True)
            message = "done"
        except PgdiffError as error:
            message = str(error)
        except BaseException as error:
            message = f"not clear: {error!r}"
        os.write(1, f"{size} {message}\\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
    fit(folder, resume=True)  # with room again
    one, two = (root / name / "checkpoints/step-00000040/manifest.json"
                for name in ("whole", folder.name))
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    print(size, "equal" if one.read_bytes() == two.read_bytes() else "differs", len(lines),
          flush=True)
"""


FEW = (0, 700, 10**6)
MANY = (*(0, 1, 60), *range(200, 1001, 50), *(1200, 1500, 3000, 10**6))


@pytest.mark.parametrize("sizes", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_checkpoint_that_cannot_be_written(sizes: tuple[int, ...], tmp_path: Path) -> None:
    root = Path(pgdiff.training.__file__).parents[2]
    done = subprocess.run(
        [
            *(sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(tmp_path)),
            ",".join(map(str, sizes)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    messages = {int(line.split()[0]): line.partition(" ")[2] for line in lines[::2]}
    refused = [size for size, message in messages.items() if message != "done"]
    assert len(refused) > len(sizes) // 3 and messages[10**6] == "done"
    for size in refused:
        pattern = (
            r"Cannot write '/.*(metrics\.jsonl|step-\d+|tfevents.*)' \(\d+ bytes\): .*too large"
        )
        assert re.search(pattern, messages[size]), messages[size]
    assert any("step-000000" in messages[size] for size in refused)
    # At every size, training then resumes from the checkpoint that was there.
    ends = {int(line.split()[0]): line.split()[1:] for line in lines[1::2]}
    assert all(end[0] == "equal" for end in ends.values())
    assert all(ends[size][1] == "4" for size in refused), "every record"


def test_a_file_that_cannot_be_written_keeps_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_whole(tmp_path / "run.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PgdiffError, match=r"run\.json' \(8 bytes\): .*No space left"):
        write_whole(file, "new text")
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


class Half:
    """A raw file on a disk that takes some bytes of a record and then no more, for a while."""

    closed = False

    def __init__(self, path: Path) -> None:
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115
        self.room = 25

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(self.room, len(data))
        self.room -= taken
        return self.file.write(data[:taken])

    def truncate(self, size: int) -> None:
        self.file.truncate(size)

    def close(self) -> None:
        self.closed = True
        self.file.close()


def test_records_wait_until_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = [f'{{"step": {n}}}\n'.encode() for n in range(10, 20)]
    file = AppendingFile(path)
    file._file.close()
    disk = file._file = Half(path)  # type: ignore[assignment]
    file.write(records[0])
    with pytest.warns(UserWarning, match=r"metrics\.jsonl' \(13 bytes\): .*No space"):
        file.write(records[1])
        file.write(records[2])
    assert path.read_bytes() == records[0], "no half of a record"
    file.write(records[3])  # it warns once
    disk.room = 1000
    file.write(records[4])
    assert path.read_bytes() == b"".join(records[:5])
    disk.room = 0
    file.write(records[5])
    disk.room = 1000
    file.close()
    assert path.read_bytes() == b"".join(records[:6])
    file.close()
