"""Speed of training next to a busy process, with busy and with sleeping threads.

python tests/benchmarks/busy_neighbour.py [--seconds 5] [--rounds 3]

Each measurement is a separate process with PyTorch's default number of threads: alone, and next to
exactly one busy process, in turns. "spinning" is OpenMP's default way of waiting; "sleeping" is the
setting of `import pgdiff`. Run it on an otherwise idle machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from timing import Row, table

ROOT = Path(__file__).parents[2]
PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_")
# The defaults of the libraries; the package does not change variables that are set.
WAYS = {"spinning": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}, "sleeping": {}}
PLACES = {"alone": 0, "beside one process": 1}
WARM_UP = 4
"""Updates before the measurement."""


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print a table, and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        print(json.dumps(train(arguments.seconds)))
        return []
    measurements: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for place, neighbours in PLACES.items():
            for way, variables in WAYS.items():
                with busy(neighbours):
                    one = measured(arguments.seconds, variables)
                measurements.setdefault((place, way), []).append(one)
                load = os.getloadavg()[0]
                print(f"{place}, {way}: {one['rate']:.2f} steps/s; load {load:.1f}", flush=True)
    rows = [
        Row(f"training, {place}", f"{way}, {int(some[0]['threads'])} threads", value, unit)
        for (place, way), some in measurements.items()
        for value, unit in (
            (statistics.median(one["rate"] for one in some), "steps/s"),
            (statistics.median(one["cpu"] for one in some), "CPU s/step"),
        )
    ]
    for place in PLACES:
        spinning, sleeping = (
            statistics.median(one["rate"] for one in measurements[place, way]) for way in WAYS
        )
        rows.append(Row(f"training, {place}", "sleeping by spinning", sleeping / spinning, ""))
    print(table(rows))
    return rows


def measured(seconds: float, variables: dict[str, str]) -> dict[str, float]:
    """Train in a process without thread settings in its environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIXES)}
    kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "envs")])
    command = [sys.executable, __file__, "--worker", "--seconds", str(seconds)]
    printed = subprocess.run(
        command, env=kept | variables, check=True, capture_output=True, text=True
    ).stdout
    result: dict[str, float] = json.loads(printed.splitlines()[-1])
    return result


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` cores busy within the context."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def train(seconds: float) -> dict[str, float]:
    """Return updates a second and CPU seconds an update of the demo's model, in this process."""
    import pgdiff  # isort: skip  (before torch, as a user's script would)
    import numpy as np
    import torch
    from speed_of_training import BATCH, make_model

    class Clock(pgdiff.training.Callback):
        wall = cpu = 0.0

        def on_step(self, step: int, metrics: dict[str, float]) -> None:
            if step == WARM_UP:
                self.wall, self.cpu = time.perf_counter(), time.process_time()
            elif step > WARM_UP and time.perf_counter() - self.wall > seconds:
                self.wall = (time.perf_counter() - self.wall) / (step - WARM_UP)
                self.cpu = (time.process_time() - self.cpu) / (step - WARM_UP)
                raise KeyboardInterrupt

    rng, rows = np.random.default_rng(0), 20_000
    episodes = pgdiff.Episodes.from_arrays(
        observations=rng.normal(size=(rows, 4)),
        actions=rng.uniform(-1, 1, (rows, 2)),
        rewards=rng.uniform(size=rows),
        terminals=np.zeros(rows),
        timeouts=np.arange(1, rows + 1) % 1000 == 0,
    )
    clock = Clock()
    trainer = pgdiff.Trainer(
        steps=10**6,
        batch_size=BATCH,
        validation=0.0,
        device="cpu",
        progress=False,
        callbacks=[clock],
    )
    with suppress(KeyboardInterrupt):
        trainer.fit(make_model(episodes), episodes)
    return {"rate": 1 / clock.wall, "cpu": clock.cpu, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    main()
