"""The command line in this process, and one tiny run that all tests look at."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgdiff.cli import main

TASK = "maze2d-umaze-v1"
TINY = [
    *("trainer.steps=20", "trainer.batch_size=8"),
    *("denoiser.width=16", "denoiser.depth=1", "task.horizon=8"),
]
QUICK = ["planner.candidates=3", "planner.sampling.steps=2"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one message; a traceback or a second line is a fault."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert "Traceback" not in self.err
        return line


@pytest.fixture
def pgdiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `pgdiff …` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.hdf5` and the finished run `run`."""
    folder = tmp_path_factory.mktemp("made")
    data = folder / "data.hdf5"
    assert main(["collect", f"task={TASK}", "steps=5000", f"out={data}"]) == 0
    assert main(["train", f"task={TASK}", f"data={data}", f"out={folder / 'run'}", *TINY]) == 0
    return folder


@pytest.fixture
def data(made: Path) -> Path:
    return made / "data.hdf5"


@pytest.fixture
def run_folder(made: Path) -> Path:
    """The run; not to be changed."""
    return made / "run"


@pytest.fixture
def own_run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(made / "run", tmp_path / "own"))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture
def snapshot():
    return files


@pytest.fixture
def tiny() -> list[str]:
    return list(TINY)


@pytest.fixture
def quick() -> list[str]:
    return list(QUICK)
