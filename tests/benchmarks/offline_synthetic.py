"""Table of agents that learn from recorded, unguided and guided synthetic data.

    python tests/benchmarks/offline_synthetic.py walker2d OUT [--jobs 2] [--arms ARM …] [--quick]

Trains the recorder, records, trains the model, makes the unguided data, then six agents: TD3+BC and
IQL on each kind. Existing results are kept, and an interrupted agent is resumed.
SETTINGS of the guided arms were chosen with one member on seeds 10000 on; scores are of seeds 0 on.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
AGES = {"walker2d": (50_000, 120_000), "halfcheetah": (50_000, 80_000)}
NAMES = {"walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}
REGION = "{name: own_step, radius: 1.0}"
IQL = {
    "share": 0.5,
    "guide.scale": 3.0,
    "guide.gradient_at": "denoiser",
    "sampling.trust_region": REGION,
}
SETTINGS: dict[str, dict[str, dict[str, object]]] = {
    "halfcheetah": {"td3_bc": {"every": 1000, "trajectories": 128, "sets": 10}, "iql": IQL},
    "walker2d": {
        "td3_bc": {
            "every": 1000,
            "trajectories": 128,
            "sets": 10,
            "guide.scale": 100.0,
            "guide.gradient_at": "denoiser",
            "guide.fields": "all",
            "sampling.trust_region": REGION,
        },
        "iql": IQL,
    },
}
"""Settings of `recipe.stages.agent.synthetic`."""
ARMS = [f"{kind}-{a}" for kind in ("guided", "unguided", "recorded") for a in ("td3_bc", "iql")]
ENDS = {"walker2d": "pgdiff_envs:walker2d-v5"}


class Chain:
    """The stages of one task, each with a log file.

    Args:
        task: name of the task.
        out: output folder.
        steps: updates of the model.
        updates: updates of each agent.
        quick: run all stages briefly; the figures are meaningless.
    """

    def __init__(self, task: str, out: Path, *, quick: bool, steps: int, updates: int) -> None:
        self.task, self.out, self.quick, self.steps = task, out, quick, steps
        self.updates = 40 if quick else updates
        out.mkdir(parents=True, exist_ok=True)

    def call(self, name: str, *words: object) -> None:
        """Run Python on one thread; stop with its log if it fails."""
        log = self.out / f"{name}.log"
        places = [str(ROOT), str(ROOT / "envs"), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
        print(f"{name}: {log}", flush=True)
        with log.open("w") as file:
            done = subprocess.run(
                [sys.executable, *map(str, words)],
                env=env,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n" + "\n".join(log.read_text().splitlines()[-5:]))

    def pgdiff(self, name: str, *words: object) -> None:
        self.call(name, "-m", "pgdiff", *words)

    @property
    def rule(self) -> list[str]:
        """Return the settings of the termination rule, unused with `quick`."""
        return [ENDS[self.task]] if self.task in ENDS and not self.quick else []

    def record(self) -> Path:
        ages = (300, 600) if self.quick else AGES[self.task]
        zips = [self.out / f"sac-{NAMES[self.task]}-{age}.zip" for age in ages]
        if not all(file.is_file() for file in zips):
            task = NAMES[self.task]
            self.call("recorder", HERE / "recorder.py", self.out, "--task", task, "--ages", *ages)
        data = self.out / "recorded.hdf5"
        if not data.is_file():
            steps = 4000 if self.quick else 300_000
            agents = f"policy=[{zips[0]},{zips[1]}]"
            words = (f"task={self.task}", "mix=varied", f"steps={steps}", agents, f"out={data}")
            self.pgdiff("collect", "collect", *words)
        return data

    def model(self, data: Path) -> Path:
        run = self.out / "model"
        words = [f"task={self.task}", f"data={data}", f"out={run}", "recipe=synthesis"]
        words += [f"trainer.steps={20 if self.quick else self.steps}"]
        words += [] if self.quick else ["trainer.compile=true"]
        self.pgdiff("model", "train", *words, *_resumed(run))
        made = self.out / "unguided.hdf5"
        if not made.is_file():
            rows = 200 if self.quick else 300_000
            words = [f"run={run}", f"transitions={rows}", f"out={made}", "batch=64"]
            words += [f"termination={rule}" for rule in self.rule]
            words += ["sampling.steps=2"] if self.quick else ["compile=true"]
            resumed = ["resume=true"] if made.with_suffix(".hdf5.shards").is_dir() else []
            self.pgdiff("unguided", "generate", *words, *resumed)
        return run

    def learn(self, kind: str, agent: str, data: Path, model: Path) -> None:
        """Train one arm, and print its scores."""
        name = f"{kind}-{agent}"
        run = self.out / name
        words = [f"trainer.steps={self.updates}", f"trainer.checkpoint_every={self.updates // 5}"]
        words += ["trainer.keep=10", f"task={self.task}"]
        stage = agent
        if kind == "guided":
            stage = "agent"
            words += ["recipe=pgd_agent", f"agent={agent}", f"data={data}", f"base={run}"]
            settings = {"batch": 64, "compile": not self.quick, **SETTINGS[self.task][agent]}
            for rule in self.rule:
                settings["termination"] = rule
            if self.quick:
                settings |= {"every": 20, "trajectories": 8, "sampling.steps": 2}
            words += [f"recipe.stages.agent.synthetic.{k}={v}" for k, v in settings.items()]
            if not run.is_dir():
                self.call(f"{name}-base", "-c", _COPY, model, run)
        else:
            of = data if kind == "recorded" else self.out / "unguided.hdf5"
            words += [f"recipe={agent}", f"data={of}", f"out={run}"]
        begun = (run / "logs" / stage).is_dir()
        self.pgdiff(name, "train", *words, *(["resume=true"] if begun else []))
        words = ["--stage", stage, *(["--episodes", "1"] if self.quick else [])]
        self.call(f"{name}-scores", HERE / "offline_curves.py", run, *words)
        table = (self.out / f"{name}-scores.log").read_text().splitlines()
        rows = [line for line in table if line.startswith("|")]
        print(f"{name} {rows[-1]}", flush=True)


_COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2])"


def _resumed(run: Path) -> list[str]:
    return ["resume=true"] if run.is_dir() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=sorted(NAMES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=14_000, help="updates of the model")
    parser.add_argument("--updates", type=int, default=50_000, help="of each agent")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--jobs", type=int, default=2, help="agents that learn side by side")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    chain = Chain(
        options.task,
        options.out,
        quick=options.quick,
        steps=options.steps,
        updates=options.updates,
    )
    data = chain.record()
    arms = [arm.split("-") for arm in options.arms]
    learned = any(kind != "recorded" for kind, _ in arms)
    run = chain.model(data) if learned else options.out / "model"
    with ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(chain.learn, *arm, data, run) for arm in arms]:
            done.result()


if __name__ == "__main__":
    main()
