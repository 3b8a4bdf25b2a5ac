"""The built wheel, installed by itself, works outside the checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import pgdiff

ROOT = Path(__file__).parents[2]

# Each is run as `pgdiff …` in one empty folder, in this order; the last two are a tiny training and
# a look at what it made.
TINY_TRAINING = [
    ["collect", "task=maze2d-umaze-v1", "steps=5000"],
    ["train", "recipe=strided", "task=maze2d-umaze-v1", "trainer.steps=3"],
    ["info", "runs/maze2d-umaze-v1/strided/0"],
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it, that sees the dependencies and not the checkout.

    A path file makes the present packages importable. Path files inside that folder, such as the
    one of an editable install, are not followed, so that the checkout stays out.
    """
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(run([str(python), "-c", where], home).strip())
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (purelib / "dependencies.pth").write_text("\n".join(sorted(outer)) + "\n")
    subprocess.run(
        [
            *[sys.executable, "-m", "pip", "--python", str(python), "--quiet"],
            *["--disable-pip-version-check", "install", "--no-deps", "--no-index"],
            *["--ignore-installed", str(wheel)],
        ],
        check=True,
        capture_output=True,
    )
    return python


def run(command: list[str], cwd: Path) -> str:
    """Run outside the checkout and without its paths; return what was printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "COVERAGE"))}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    (information,) = {top for top in tops if top.endswith(".dist-info")}
    assert tops == {"pgdiff", "pgdiff_envs", information}
    assert any(name.startswith("pgdiff/configs/") and name.endswith(".yaml") for name in names)
    assert f"{information}/licenses/LICENSE" in names
    assert information == f"pgdiff_rl-{pgdiff.__version__}.dist-info"
    assert "pgdiff/py.typed" in names and "pgdiff_envs/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    written = {
        file.relative_to(place).as_posix()
        for place in (ROOT, ROOT / "envs")
        for package in ("pgdiff", "pgdiff_envs")
        for file in (place / package).rglob("*.py")
    }
    assert written <= set(names)


def test_the_wheel_is_used_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import pgdiff, pgdiff_envs; print(pgdiff.__file__); print(pgdiff_envs.__file__)"
    for line in run([str(installed), "-c", code], tmp_path).splitlines():
        assert Path(line).is_relative_to(installed.parents[1])
        assert not Path(line).is_relative_to(ROOT)
    paths = run([str(installed), "-c", "import sys; print(*sys.path, sep='\\n')"], tmp_path)
    assert str(ROOT) not in paths.splitlines()
    assert str(ROOT / "envs") not in paths.splitlines()


def test_name_and_version(installed: Path, tmp_path: Path) -> None:
    """The distribution's own name: that of the package is a stranger's on the index."""
    code = "import importlib.metadata as m; print(m.version('pgdiff-rl')); import pgdiff; "
    code += "print(pgdiff.__version__)"
    printed = run([str(installed), "-c", code], tmp_path).split()
    by_command = run([str(installed.parent / "pgdiff"), "--version"], tmp_path)
    assert printed == [pgdiff.__version__] * 2 and by_command == f"pgdiff {pgdiff.__version__}\n"


def test_help_by_module_and_by_command(installed: Path, tmp_path: Path) -> None:
    by_module = run([str(installed), "-m", "pgdiff", "--help"], tmp_path)
    by_command = run([str(installed.parent / "pgdiff"), "--help"], tmp_path)
    for command in ("collect", "check", "train", "plan", "evaluate", "info"):
        assert command in by_module and command in by_command
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_tiny_training_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    for arguments in TINY_TRAINING:
        printed = run([str(installed.parent / "pgdiff"), *arguments], tmp_path)
        assert printed.strip(), arguments
    assert list(tmp_path.rglob("model.safetensors"))
