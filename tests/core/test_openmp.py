"""Variables that OpenMP reads when PyTorch is loaded: when they are set, and when not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgdiff.core import openmp

ROOT = Path(__file__).parents[2]
PRINT = (
    "; import json, os, sys; print(json.dumps({key: value for key, value in os.environ.items() "
    "if key.split('_')[0] in ('OMP', 'GOMP', 'KMP')}))"
)
ASLEEP = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that inherits none of these variables."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.split("_")[0] not in ("OMP", "GOMP", "KMP", "MKL")
    }
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "envs")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )


def variables_after(code: str, **variables: str) -> dict[str, str]:
    printed: dict[str, str] = json.loads(run(code + PRINT, **variables).stdout.splitlines()[-1])
    return printed


def test_importing_the_package_lets_threads_sleep() -> None:
    assert variables_after("import pgdiff, sys; assert 'torch' not in sys.modules") == ASLEEP


def test_the_command_line_does_so_first(tmp_path: Path) -> None:
    """This holds even if its module is imported first, and before any import of a command."""
    code = (
        "import os, sys; from pgdiff.cli.main import main; os.environ.pop('GOMP_SPINCOUNT'); "
        "os.environ.pop('KMP_BLOCKTIME'); main(['--version']); assert 'torch' not in sys.modules"
    )
    found = variables_after(code)
    assert {key: found.get(key) for key in ASLEEP} == ASLEEP


def test_what_the_user_has_set_stays_as_it_is() -> None:
    for name in openmp.WAITING:
        assert variables_after("import pgdiff", **{name: "passive"}) == {name: "passive"}


def test_it_is_too_late_after_torch(tmp_path: Path) -> None:
    files(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100 100\n"})
    code = (
        "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); import pgdiff; "
        f"from pgdiff.core import openmp; openmp.fit_threads_to_cores({str(tmp_path)!r})"
    )
    assert variables_after(code) == {}


def test_openmp_has_read_it() -> None:
    printed = run("import pgdiff, torch", OMP_DISPLAY_ENV="VERBOSE").stderr
    if "GOMP_SPINCOUNT" not in printed:
        pytest.skip("this PyTorch is built with another OpenMP library")
    assert "GOMP_SPINCOUNT = '1000'" in printed


def files(root: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V2 = "sys/fs/cgroup"


def v1(quota: int, *, group: str = "") -> dict[str, str]:
    """Write the files of a control group of version 1."""
    folder = f"sys/fs/cgroup/cpu/{group}"
    return {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": "100000\n"}


CONTAINERS: list[tuple[str, dict[str, str], int]] = [
    ("0::/\n", {}, 6),
    ("0::/\n", {f"{V2}/cpu.max": "max 100000\n"}, 6),
    ("0::/\n", {f"{V2}/cpu.max": "200000 100000\n"}, 2),
    ("0::/\n", {f"{V2}/cpu.max": "150000 100000\n"}, 2),
    ("0::/\n", {f"{V2}/cpu.max": "10000 100000\n"}, 1),
    ("0::/\n", {f"{V2}/cpu.max": "900000 100000\n"}, 6),
    ("0::/a/b\n", {f"{V2}/a/cpu.max": "3 1\n", f"{V2}/a/b/cpu.max": "max 1\n"}, 3),
    ("0::/a/b\n", {f"{V2}/a/b/cpu.max": "2 1\n", f"{V2}/a/cpu.max": "3 1\n"}, 2),
    ("0::/on/the/host\n", {f"{V2}/cpu.max": "2 1\n"}, 2),
    ("5:memory:/\n3:cpu,cpuacct:/a\n", v1(150_000, group="a/"), 2),
    ("3:cpuacct,cpu:/host\n0::/\n", v1(150_000), 2),
    ("3:cpu:/\n", v1(-1), 6),
    ("0::/\n", {f"{V2}/cpu.max": "what is this\n"}, 6),
    ("", {f"{V2}/cpu.max": "1 1\n"}, 6),
]


def test_cores_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    for number, (groups, contents, cores) in enumerate(CONTAINERS):
        root = tmp_path / str(number)
        files(root, {"proc/self/cgroup": groups, **contents})
        assert openmp.allowed_cores(str(root)) == cores, (groups, contents)


@pytest.mark.parametrize(
    ("cores", "variables", "expected"),
    [
        (8, {}, {"OMP_NUM_THREADS": "3"}),
        (8, {"OMP_NUM_THREADS": "5"}, {"OMP_NUM_THREADS": "5"}),
        (3, {}, {}),
    ],
)
def test_threads_of_a_container(
    cores: int, variables: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    files(tmp_path, {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "250000 100000\n"})
    code = (
        f"import os; os.cpu_count = lambda: {cores}; "
        f"os.sched_getaffinity = lambda process: set(range({cores})); "
        f"from pgdiff.core import openmp; openmp.fit_threads_to_cores({str(tmp_path)!r})"
    )
    assert variables_after(code, **variables) == ASLEEP | expected
