"""The built wheel, installed alone, works outside the checkout."""

import json
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
# a look at its results.
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
    """Return a new environment with the wheel, which sees the dependencies but not the checkout.

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
    """Run outside the checkout and without its paths; return the output."""
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
    """The distribution has another name than the package, whose name is taken on the index."""
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


PARTS = """
from dataclasses import dataclass

from pgdiff.core.registry import register
from pgdiff.denoisers import ResidualMLPConfig

@register("denoiser", "NAME")
@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 16

    def build(self, spec):
        return ResidualMLPConfig(width=self.width, depth=1).build(spec)
"""
RECORD = """
import gymnasium, numpy
from pgdiff.data import write_hdf5
env = gymnasium.make("Pendulum-v1")
rows = [env.reset(seed=0)[0]] + [env.step(env.action_space.sample())[0] for _ in range(199)]
zeros = numpy.zeros(200)
fields = {"observations": numpy.array(rows), "actions": zeros[:, None], "rewards": zeros}
fields |= {"terminals": zeros > 0, "timeouts": numpy.arange(1, 201) % 50 == 0}
write_hdf5("my_data.hdf5", fields)
"""
RECIPE = """
defaults: [strided, _self_]
stages: {value: null, inverse_dynamics: {arguments: {width: 8, depth: 1}}}
planner: {candidates: 2, sampling: {steps: 2}}
guides: {value: null}
guide: null
"""


def test_own_parts_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    """A task, a recipe and denoisers of the user work from a folder and an installed plugin."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(run([str(installed), "-c", code], tmp_path).strip())
    plugin = purelib / "my_plugin-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[pgdiff.plugins]\nmine = my_plugin\n")
    (purelib / "my_plugin.py").write_text(PARTS.replace("NAME", "installed_mlp"))
    (tmp_path / "my_parts.py").write_text(PARTS.replace("NAME", "my_mlp"))
    (tmp_path / "my_task.yaml").write_text("id: Pendulum-v1\nhorizon: 6\n")
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(RECIPE)
    run([str(installed), "-c", RECORD], tmp_path)
    pgdiff = str(installed.parent / "pgdiff")
    parts = ["task=./my_task.yaml", "--config-dir=conf", "recipe=mine", "data=my_data.hdf5"]
    small = ["trainer.steps=2", "trainer.validation=0", "out=own"]
    run([pgdiff, "train", *parts, *small, "denoiser=my_parts:Config"], tmp_path)
    run([pgdiff, "plan", "run=own", "plugins=[my_parts]"], tmp_path)
    assert (tmp_path / "own" / "plan" / "plan.json").is_file()
    assert json.loads((tmp_path / "own" / "run.json").read_text())["recipe"] == "mine"
    config = json.loads((tmp_path / "own" / "model" / "config.json").read_text())
    assert config["learner"]["denoiser"]["import"] == "my_parts"
    shown = run([pgdiff, "train", *parts, "denoiser=installed_mlp", "--cfg", "job"], tmp_path)
    assert "name: installed_mlp" in shown


@pytest.mark.slow
def test_a_tiny_training_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    for arguments in TINY_TRAINING:
        printed = run([str(installed.parent / "pgdiff"), *arguments], tmp_path)
        assert printed.strip(), arguments
    assert list(tmp_path.rglob("model.safetensors"))
