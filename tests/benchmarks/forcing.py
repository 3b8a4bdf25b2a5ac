"""Diffusion Forcing: what the cache saves, and what schedules, futures and labels are worth.

    python tests/benchmarks/forcing.py cache [--tokens 20 80]
    python tests/benchmarks/forcing.py schedules RUN [--seed 10000] [--episodes 30] [--rows full]
    python tests/benchmarks/forcing.py futures RUN [--force-noise 0.5]
    python tests/benchmarks/forcing.py rollout RUN DATA
    python tests/benchmarks/forcing.py estimates RUN DATA
    python tests/benchmarks/forcing.py robustness RUN DATA [--rows 0.1 dropped]

RUN is a finished run of `recipe=forcing`. Rows of one table share their environment seeds.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from next_token import NextToken
from timing import timings

from pgdiff import Episodes, Planner, TrajectoryDiffusion, load_episodes, rollout
from pgdiff.denoisers import TransformerConfig
from pgdiff.diffusion import (
    DDIM,
    HistoryGuidance,
    IndependentLevels,
    MonteCarlo,
    SamplerStep,
    level_of_noise,
)
from pgdiff.diffusion.level_schedules import (
    Autoregressive,
    FullSequence,
    LevelSchedule,
    Pyramid,
    Trapezoid,
)
from pgdiff.evaluation import Disturbed, Evaluation, evaluate, interval, paired_difference
from pgdiff.planning.from_run import read_run
from pgdiff.planning.past import Past, estimated

SCHEDULES: dict[str, LevelSchedule] = {
    "full": FullSequence(),
    "pyramid 0.25": Pyramid(slope=0.25),
    "pyramid 0.5": Pyramid(slope=0.5),
    "pyramid 1": Pyramid(slope=1.0),
    "pyramid 2": Pyramid(slope=2.0),
    "pyramid 4": Pyramid(slope=4.0),
    "trapezoid 0.5": Trapezoid(slope=0.5),
    "trapezoid 1": Trapezoid(slope=1.0),
    "autoregressive": Autoregressive(),
}


# ------------------------------------------------------------------------------------------- cache


def cache(options: argparse.Namespace) -> None:
    """Milliseconds of a sampling of 20 steps a token, with and without keys and values kept."""
    print("| tokens | schedule | trajectories | cached, ms | uncached, ms | largest difference |")
    print("|---|---|---|---|---|---|")
    for tokens in options.tokens:
        rows = 400 * tokens
        source = np.random.default_rng(0)
        model = TrajectoryDiffusion.from_episodes(
            Episodes.from_arrays(
                observations=source.normal(size=(rows, 4)),
                actions=source.uniform(-1, 1, size=(rows, 2)),
                rewards=source.normal(size=rows),
                terminals=np.zeros(rows, bool),
                timeouts=np.arange(1, rows + 1) % (4 * tokens) == 0,
            ),
            horizon=tokens,
            levels=IndependentLevels(),
            denoiser=TransformerConfig(attention="causal"),
        ).eval()
        with torch.no_grad():  # fresh weights give 0, whatever they are asked
            for parameter in model.network.parameters():
                noise = torch.Generator().manual_seed(parameter.numel())
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
        for name in ("pyramid 1", "autoregressive"):
            for batch in (1, 16):
                if tokens * batch > 1500 and name == "autoregressive":
                    continue  # minutes without a cache
                source = torch.Generator().manual_seed(0)
                draws = [
                    partial(
                        model.sample,
                        batch=batch,
                        steps=20,
                        solver=DDIM(),
                        levels=SCHEDULES[name],
                        cache=kept,
                    )
                    for kept in (True, False)
                ]
                found = [draw(generators=[torch.Generator().manual_seed(0)]) for draw in draws]
                spent = [
                    1e3
                    * median(timings(partial(draw, generators=[source]), repeats=options.repeats))
                    for draw in draws
                ]
                error = float((found[0] - found[1]).abs().max())
                print(
                    f"| {tokens} | {name} | {batch} | {spent[0]:.0f} | {spent[1]:.0f} "
                    f"| {error:.0e} |",
                    flush=True,
                )


# ---------------------------------------------------------------------------------------- planning


def acted(
    run: Path,
    options: argparse.Namespace,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    **settings: Any,
) -> Evaluation:
    """Episodes of a run's planner with these settings."""
    planner = Planner.from_run(run, **_asked(options) | settings)
    return evaluate(
        planner,
        make_env,
        episodes=options.episodes,
        seed=options.seed,
        parallel=options.episodes,
        progress=False,
    )


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the planner that the command line says."""
    names = ("controller", "scale", "at", "trace")
    asked = {name: getattr(options, name) for name in names}
    if options.schedule is not None:
        asked["schedule"] = SCHEDULES[options.schedule]
    return asked


def score_of(found: Evaluation) -> np.ndarray:
    return found.returns if found.normalized_scores is None else found.normalized_scores


def line(label: str, found: Evaluation, first: Evaluation | None, *more: object) -> str:
    """A row of a table: score, difference to the first row, never there, milliseconds a plan."""
    scores = score_of(found)
    low, high = interval(scores)
    cells = [label, f"{scores.mean():.1f} [{low:.1f}, {high:.1f}]", ""]
    if first is not None:
        gap, low, high = paired_difference(scores, score_of(first))
        cells[2] = f"{gap:+.1f} [{low:+.1f}, {high:+.1f}]"
    if found.steps_to_goal is not None:
        missed = np.isnan(found.steps_to_goal)
        cells.append(f"{np.nanmean(found.steps_to_goal):.0f}" if not missed.all() else "-")
        cells.append(f"{100 * missed.mean():.0f} %")
    cells += [f"{1e3 * found.agent_seconds / max(found.plans or 1, 1):.0f}", *map(str, more)]
    return "| " + " | ".join(cells) + " |"


def schedules(options: argparse.Namespace) -> None:
    """Every schedule on the same episodes."""
    run = read_run(options.run)
    first = None
    print("| | score | to full | step of arrival | never there | ms a plan | network calls |")
    for name, schedule in SCHEDULES.items():
        if options.rows and name not in options.rows:
            continue
        found = acted(
            options.run, options, lambda: gymnasium.make(run.task["id"]), schedule=schedule
        )
        print(line(name, found, first, _calls(options.run, schedule, run.task["id"])), flush=True)
        first = found if first is None else first


def _calls(run: Path, schedule: LevelSchedule, task: str) -> int:
    """Calls of the network for a plan: rows in which something moves."""
    rows: list[SamplerStep] = []
    planner = Planner.from_run(run, schedule=schedule)
    planner.plan(gymnasium.make(task).reset(seed=0)[0], seed=0, callback=rows.append)
    return sum(row.x0_hat is not None for row in rows)


def futures(options: argparse.Namespace) -> None:
    """Gradients averaged over futures where the dynamics are pushed by chance.

    They are taken through the denoiser, unless told otherwise: at x0 a near token hears nothing of
    what follows it. The last column is of the network's calls for one plan, and of the trajectories
    that they hold together.
    """
    run = read_run(options.run)
    options.at = options.at or "denoiser"

    def make(noise: float) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(
            run.task["id"], force_noise=noise, max_episode_steps=options.episode_steps
        )

    def row(label: str, noise: float, first: Evaluation | None, **settings: Any) -> Evaluation:
        found = acted(options.run, options, lambda: make(noise), **settings)
        planner = Planner.from_run(options.run, **_asked(options) | settings)
        seen: list[int] = []
        last = planner.model.network.token_out  # every call of the network ends there
        last.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
        planner.plan(make(noise).reset(seed=0)[0], seed=0)
        print(line(label, found, first, f"{len(seen)}, {sum(seen)}"), flush=True)
        return found

    arms: dict[str, dict[str, Any]] = {
        "no guide": {"guide": "none"},
        "the clean estimate": {},
        **{
            f"{count} futures": {"monte_carlo": MonteCarlo(futures=count, steps=2)}
            for count in (1, 4, 16)
        },
    }
    print("| | score | to the clean estimate | step of arrival | never there | ms a plan | calls |")
    first = None
    for noise in (0.0, options.force_noise):
        for label, settings in arms.items():
            if (options.rows and label not in options.rows) or (
                "monte_carlo" in settings and not noise
            ):
                continue
            found = row(f"{label}, force noise {noise}", noise, first, **settings)
            first = found if label == "the clean estimate" else first


def _noises(run: Any, options: argparse.Namespace) -> dict[float, tuple[np.ndarray, float]]:
    """Deviation of the noise, and its level, at shares of the recorded observations' own."""
    deviation = load_episodes(options.data).observations[:].std(axis=0)
    model = run.load("model", device="cpu")
    where = model.layout.slices["observations"]
    scale = (model.normalizer.scale / model.normalizer.factor)[where].cpu().numpy()
    noises = {share: share * deviation for share in (0.05, 0.1, 0.2, 0.5)}
    return {
        share: (noise, level_of_noise(model.schedule, float(np.mean(noise / scale))))
        for share, noise in noises.items()
    }


def estimates(options: argparse.Namespace) -> None:
    """How far what noisy observations are taken for is from the truth, by tokens of the past."""
    run, source = read_run(options.run), np.random.default_rng(options.seed)
    model = run.load("model", device="cpu")
    segments, stride = model.dataset(load_episodes(options.data)), model.layout.stride
    batch = segments.batch(source.choice(len(segments), size=2000))
    truth, done = batch.observations, batch.previous_actions
    contexts = (0, 1, 2, 4, 8)
    print("| noise | measured |" + "".join(f" {context} of the past |" for context in contexts))
    for share, (noise, level) in _noises(run, options).items():
        seen = (truth + noise * source.normal(size=truth.shape)).astype(np.float32)

        def error(found: np.ndarray, now: int) -> str:
            square = np.square(found - truth[:, now])
            return f"{square[:, :2].mean() ** 0.5:.3f}, {square[:, 2:].mean() ** 0.5:.3f}"

        cells = [f"{share}, level {level:.3f}", error(seen[:, 0], 0)]
        for now in contexts:
            past = Past(
                observations=np.repeat(seen[:, :now], stride, axis=1),
                actions=done[:, 1 : now + 1].reshape(len(truth), now * stride, -1)
                if now
                else np.zeros((len(truth), 0, 2), np.float32),
                levels=np.full((len(truth), now * stride), level),
                moved=np.zeros((len(truth), now * stride, truth.shape[-1])),
                recorded=np.full(len(truth), now * stride),
            )
            cells.append(
                error(estimated(model, seen[:, now], np.full(len(truth), level), past), now)
            )
        print("| " + " | ".join(cells) + " |", flush=True)


def robustness(options: argparse.Namespace) -> None:
    """Noise and gaps in observations, labelled or taken for the truth."""
    run = read_run(options.run)
    print("| | score | labelled less not | step of arrival | never there | ms a plan |")
    for share, (noise, level) in _noises(run, options).items():
        if options.rows and str(share) not in options.rows:
            continue

        def make(noise: np.ndarray = noise) -> Disturbed:
            return Disturbed(gymnasium.make(run.task["id"]), noise=noise)

        bare = acted(options.run, options, make)
        print(line(f"noise {share}, taken for the truth", bare, None), flush=True)
        for context in (0, options.context):
            found = acted(options.run, options, make, observation_level=level, context=context)
            label = f"noise {share}, level {level:.3f}" + _with(context)
            print(line(label, found, bare), flush=True)

    if options.rows and "dropped" not in options.rows:
        return

    def dropping(stale: bool) -> Disturbed:
        return Disturbed(gymnasium.make(run.task["id"]), dropped=0.3, stale=stale)

    bare = acted(options.run, options, lambda: dropping(True))
    print(line("30 % dropped, the last one stays", bare, None), flush=True)
    for level, context in (
        *((level, 0) for level in (0.0, 0.05, 0.1, 0.2)),
        (0.1, options.context),
    ):
        found = acted(
            options.run, options, lambda: dropping(False), missing_level=level, context=context
        )
        label = f"30 % dropped, the plan's at level {level}" + _with(context)
        print(line(label, found, bare), flush=True)


def _with(context: int) -> str:
    return f", with {context} tokens of the past" if context else ""


# ---------------------------------------------------------------------------------------- roll-outs


def long_rollouts(options: argparse.Namespace) -> None:
    """Ten horizons from recorded starts: steps inside walls, speeds; with history guidance too."""
    run = read_run(options.run)
    model: Any = run.load("model", device="cpu")
    episodes = load_episodes(options.data)
    maze = gymnasium.make(run.task["id"]).unwrapped.layout  # type: ignore[attr-defined]
    source = np.random.default_rng(options.seed)
    segments = model.dataset(episodes)
    some = [
        np.asarray(segments.batch(source.choice(len(segments), size=count)).observations)
        for count in (options.episodes, 5000)
    ]
    begin = torch.as_tensor(some[0][:, 0])
    jump, speed = _jumps(some[1]), np.linalg.norm(some[1][..., 2:4], axis=-1).reshape(-1)
    tokens = 10 * model.layout.horizon
    print("| | inside walls | mean speed | its KS distance | jumps beyond the data's | seconds |")

    def report(label: str, made: np.ndarray, spent: float | None) -> None:
        places = made[..., :2].reshape(-1, 2)
        inside = np.mean([not maze.is_free(*maze.cell(*place)) for place in places])
        speeds = np.linalg.norm(made[..., 2:4], axis=-1).reshape(-1)
        print(
            f"| {label} | {100 * inside:.1f} % | {speeds.mean():.2f} "
            f"| {_ks(speeds, speed):.3f} | {100 * np.mean(_jumps(made) > jump.max()):.1f} % "
            f"| {'' if spent is None else f'{spent:.0f}'} |",
            flush=True,
        )

    report("recorded", some[1], None)
    began = time.perf_counter()
    made = _inpainted(model, begin, tokens, seed=options.seed)
    report("all together, in-painted", made, time.perf_counter() - began)
    arms: dict[str, dict[str, Any]] = {
        "all together": {"levels": FullSequence()},
        "pyramid 1": {"levels": Pyramid(slope=1.0)},
        "pyramid 4": {"levels": Pyramid(slope=4.0)},
        "autoregressive": {"levels": Autoregressive()},
    }
    for level in (0.01, 0.02, 0.05):
        arms[f"pyramid 1, stabilised at {level}"] = {
            "levels": Pyramid(slope=1.0),
            "stabilization": level,
        }
    for weight in (0.5, 1.5, 2.0, 4.0):
        arms[f"pyramid 1, history x {weight}"] = {
            "levels": Pyramid(slope=1.0),
            "history": HistoryGuidance.vanilla(weight),
        }
        arms[f"pyramid 1, history x {weight} at level 0.3"] = {
            "levels": Pyramid(slope=1.0),
            "history": HistoryGuidance.fractional(weight, level=0.3),
        }
    for label, settings in arms.items():
        if options.rows and label not in options.rows:
            continue
        began = time.perf_counter()
        made = rollout(model, begin, tokens=tokens, steps=20, seed=options.seed, **settings)
        report(label, made.observations.cpu().numpy(), time.perf_counter() - began)
    baseline = NextToken(model, episodes, steps=options.updates, seed=options.seed)
    began = time.perf_counter()
    report("next-token regression", baseline.rollout(begin, tokens), time.perf_counter() - began)


@torch.no_grad()
def _inpainted(model: Any, begin: torch.Tensor, tokens: int, *, seed: int) -> np.ndarray:
    """Windows of one level for all tokens, whose past is put in with the noise of that level.

    So models of one level for the whole sequence are told of a past (Lugmayr et al. 2022,
    "RePaint", without its repetitions; Janner et al. 2022 put it in clean). 20 steps of DDIM.
    """
    generator = torch.Generator().manual_seed(seed)
    horizon, level = model.layout.horizon, torch.linspace(1.0, 0.0, 21)
    known = model.given(begin)
    x = known.values[:, :1]
    while x.shape[1] < tokens:
        context = 1 if x.shape[1] == 1 else horizon // 2
        past = x[:, -context:]
        shape = (len(begin), horizon, past.shape[2])
        window = torch.randn(shape, generator=generator)
        noise = torch.randn(past.shape, generator=generator)
        for now, then in pairwise(level):
            at = now.expand(1, horizon)
            alpha, sigma, alpha_to, sigma_to = (
                float(part(one))
                for one in (now, then)
                for part in (model.schedule.alpha, model.schedule.sigma)
            )
            window[:, :context] = alpha * past + sigma * noise
            x0_hat = model.denoise(window, at)
            window = alpha_to * x0_hat + sigma_to * (window - alpha * x0_hat) / sigma
        x = torch.cat([x, window[:, context:]], dim=1)
    return np.asarray(model.segment(x[:, :tokens]).observations)


def _jumps(path: np.ndarray) -> np.ndarray:
    """Distance from each place to the next."""
    return np.asarray(np.linalg.norm(np.diff(path[..., :2], axis=-2), axis=-1))


def _ks(one: np.ndarray, other: np.ndarray) -> float:
    """Greatest distance of two distribution functions."""
    grid = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["cache", "schedules", "futures", "rollout", "estimates", "robustness"]
    )
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--controller", default=None)
    parser.add_argument("--scale", type=float, help="of the guide")
    parser.add_argument("--at", help="where the guide's gradient is taken")
    parser.add_argument("--trace", type=float, help="of the guide; the run's if left out")
    parser.add_argument("--schedule", choices=SCHEDULES, help="of levels; the run's if left out")
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--force-noise", type=float, default=0.5)
    parser.add_argument("--episode-steps", type=int, help="of `futures`; the task's if left out")
    parser.add_argument("--tokens", type=int, nargs="+", default=[20, 80, 320])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--context", type=int, default=4, help="past tokens in `robustness`")
    options = parser.parse_args()
    needed = {"cache": (), "schedules": ("run",), "futures": ("run",)}
    for name in needed.get(options.what, ("run", "data")):
        if getattr(options, name) is None:
            parser.error(f"`{options.what}` needs {name.upper()}.")
    torch.set_num_threads(1)
    {
        "cache": lambda: cache(options),
        "schedules": lambda: schedules(options),
        "futures": lambda: futures(options),
        "rollout": lambda: long_rollouts(options),
        "estimates": lambda: estimates(options),
        "robustness": lambda: robustness(options),
    }[options.what]()


if __name__ == "__main__":
    main()
