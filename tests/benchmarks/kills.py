"""Trainings that are killed with -9 at random moments, resumed, and compared with a whole one.

python tests/benchmarks/kills.py [--quick] [--seed N]

Kills `pgdiff train` with three small stages, with 0 and with 2 processes that gather batches; then
a process that saves without end, also at random moments. Returns 1 if anything differs.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from pgdiff.cli import main as pgdiff
from pgdiff.core.serialization import load_folder, save_folder
from pgdiff.core.validation import PgdiffError

TASK = "maze2d-umaze-v1"
ROOT = Path(__file__).parents[2]
STAGES = ("model", "value", "inverse_dynamics")
SMALL = [
    *("trainer.batch_size=16", "trainer.warmup=5", "trainer.log_every=7"),
    *("denoiser.width=16", "denoiser.depth=1", "task.horizon=8"),
    *("trainer.best=eval/loss", "trainer.validate_every=9", "device=cpu"),
]
ORPHANED = 10.0
"""Seconds within which worker processes must end after their parent."""


@dataclass(frozen=True)
class Setting:
    """A training and its folders."""

    data: Path
    steps: int
    workers: int

    def start(self, run: Path) -> subprocess.Popen[str]:
        """Train, or resume a training."""
        words = ["train", "recipe=strided", f"task={TASK}", f"data={self.data}", f"out={run}"]
        words += [f"trainer.steps={self.steps}", f"trainer.checkpoint_every={self.steps // 10}"]
        words += [f"trainer.workers={self.workers}", *SMALL, "resume=true"]
        path = os.pathsep.join([str(ROOT), str(ROOT / "envs")])
        return subprocess.Popen(
            [sys.executable, "-m", "pgdiff", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )

    def finish(self, run: Path) -> float:
        """Train to the end; return the seconds from the first line of output."""
        process = self.start(run)
        assert process.stdout is not None
        process.stdout.readline()
        began = time.perf_counter()
        _, errors = process.communicate(timeout=300)
        if process.returncode != 0:
            raise RuntimeError(errors)
        return time.perf_counter() - began

    def kill(self, run: Path, delay: float) -> bool:
        """Train, and kill after `delay` seconds; return True if the process still ran."""
        process = self.start(run)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()  # data and modules are loaded, and training begins
        time.sleep(delay)
        process.kill()
        code = process.wait()
        process.stdout.close()
        process.stderr.close()
        if orphans(process.pid):
            raise RuntimeError(f"a process outlives its parent by {ORPHANED} s")
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"exit code {code} before it was killed")
        return code == -signal.SIGKILL


def fingerprint(run: Path, steps: int) -> dict[str, str]:
    """Return the SHA-256 of weights, averages, optimiser, counters and result of every stage."""
    files = [run / "run.json"]
    for stage in STAGES:
        logs = run / "logs" / stage
        files += [run / stage / "model.safetensors", logs / "best" / "ema.safetensors"]
        last = logs / "checkpoints" / f"step-{steps:08d}"
        files += [last / f"{name}.safetensors" for name in ("weights", "ema", "optimizer")]
        files += [last / "trainer.json"]
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def left_over(run: Path) -> list[str]:
    """Return hidden names, which only killed processes leave."""
    return [str(path.relative_to(run)) for path in run.rglob(".*")]


def orphans(session: int) -> bool:
    """Return True if a process of a session still exists after the time limit (Linux)."""
    until = time.monotonic() + ORPHANED
    while time.monotonic() < until:
        if not _alive(session):
            return False
        time.sleep(0.05)
    return True


def _alive(session: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            return True
    return False


def killed_run(
    setting: Setting, run: Path, *, seconds: float, draw: random.Random
) -> tuple[bool, int, int]:
    """Kill a training, resume it, perhaps kill it again, and resume it to its end.

    Returns:
        True if the result equals that of an uninterrupted run; kills; files left behind.
    """
    wanted, done = draw.choice((1, 1, 2)), 0
    while done < wanted:
        if setting.kill(run, draw.uniform(0.0, seconds)):
            done += 1
        else:  # finished before the kill: start again
            shutil.rmtree(run)
            done = 0
    setting.finish(run)
    whole = run.with_name(f"whole{setting.workers}")
    same = fingerprint(run, setting.steps) == fingerprint(whole, setting.steps)
    return same, done, len(left_over(run))


def trainings(
    folder: Path, *, workers: Sequence[int], runs: int, steps: int, jobs: int, seed: int
) -> bool:
    """Kill and resume `runs` trainings for every number of workers; print how they end."""
    data = folder / "data.hdf5"
    assert pgdiff(["collect", f"task={TASK}", "steps=3000", f"out={data}"]) == 0
    sound, whole = True, []
    for count in workers:
        setting = Setting(data, steps, count)
        run = folder / f"whole{count}"
        seconds = setting.finish(run)
        whole.append(fingerprint(run, steps))
        del whole[-1]["run.json"]  # contains the number of workers
        draws = [random.Random(f"{seed} {count} {number}") for number in range(runs)]
        with ThreadPoolExecutor(jobs) as pool:
            futures = [
                pool.submit(
                    killed_run,
                    setting,
                    folder / f"run{count}-{number}",
                    seconds=seconds,
                    draw=draw,
                )
                for number, draw in enumerate(draws)
            ]
            results = [future.result() for future in futures]
        equal = sum(same for same, _, _ in results)
        print(
            f"{count} workers: {equal} of {runs} runs end equal to the whole one, after "
            f"{sum(kills for _, kills, _ in results)} SIGKILLs at random moments of "
            f"{seconds:.1f} s; {sum(left for _, _, left in results)} files left over",
            flush=True,
        )
        sound &= equal == runs
    same = all(state_after == whole[0] for state_after in whole)
    print(f"{' and '.join(map(str, workers))} workers give the same bytes: {same}")
    return sound and same


def savings(folder: Path, *, kills: int, seed: int) -> bool:
    """Kill a process that replaces one folder without end; print how many folders are unusable."""
    path, draw, unusable = folder / "saved", random.Random(seed), 0
    for _ in range(kills):
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            count = 0
            while True:
                save_folder(path, {"count": count}, {"w": torch.full((50_000,), float(count))})
                os.write(writes, b".")
                count += 1
        os.read(reads, 1)
        time.sleep(draw.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)
        try:
            config, tensors = load_folder(path)
            unusable += not bool(tensors["w"].eq(config["count"]).all())
        except PgdiffError as error:
            print(error)
            unusable += 1
    print(f"{kills} SIGKILLs while saving: {unusable} unusable folders")
    return unusable == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, resume, compare; return 0 if all results are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run and ten savings")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    arguments = parser.parse_args(argv)
    quick: bool = arguments.quick
    with tempfile.TemporaryDirectory() as folder:
        # Before any training: a process must not fork while it has other threads.
        sound = savings(Path(folder), kills=10 if quick else 100, seed=arguments.seed)
        sound &= trainings(
            Path(folder),
            workers=(2,) if quick else (0, 2),
            runs=1 if quick else 10,
            steps=20 if quick else 100,
            jobs=1 if quick else arguments.jobs,
            seed=arguments.seed,
        )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
