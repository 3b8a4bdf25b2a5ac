"""Diffusion Forcing: cost of the cache, and scores by level schedule, futures and filter.

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

from pgdiff import (
    DiffusionProcess,
    Episodes,
    Sampling,
    Tokens,
    TrajectoryDiffusion,
    load_episodes,
    load_planner,
    rollout,
)
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
from pgdiff.evaluation import Evaluation, NoisyObservations, evaluate, interval, paired_difference
from pgdiff.planning import Planner
from pgdiff.planning.observation_filter import estimate_present
from pgdiff.planning.state import ObservationHistory
from pgdiff.runs.run import read_run

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
    """Print the milliseconds of a sampling of 20 steps a token, with and without the cache."""
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
            Tokens(horizon=tokens),
            process=DiffusionProcess(level_distribution=IndependentLevels()),
            denoiser=TransformerConfig(attention="causal"),
        ).eval()
        with torch.no_grad():  # initial weights give 0 for every input
            for parameter in model.network.parameters():
                noise = torch.Generator().manual_seed(parameter.numel())
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
        for name in ("pyramid 1", "autoregressive"):
            for batch in (1, 16):
                if tokens * batch > 1500 and name == "autoregressive":
                    continue  # minutes without a cache
                source = torch.Generator().manual_seed(0)
                sampling = Sampling(steps=20, solver=DDIM(), level_schedule=SCHEDULES[name])
                draws = [
                    partial(model.sample, batch, sampling.replace(kv_cache=kept))
                    for kept in (True, False)
                ]
                samples = [draw(seed=[torch.Generator().manual_seed(0)]).x for draw in draws]
                spent = [
                    1e3 * median(timings(partial(draw, seed=[source]), repeats=options.repeats))
                    for draw in draws
                ]
                error = float((samples[0] - samples[1]).abs().max())
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
    """Evaluate a run's planner with these settings."""
    planner = _planner(run, options, settings)
    return evaluate(
        planner,
        make_env,
        episodes=options.episodes,
        seed=options.seed,
        parallel=options.episodes,
        progress=False,
    )


def _planner(run: Path, options: argparse.Namespace, settings: dict[str, Any]) -> Planner:
    """Return the run's planner with the settings of the command line, and others.

    Args:
        run: folder of the run.
        options: the command line.
        settings: arguments of `load_planner`; `sampling` replaces single settings of the run.
    """
    names = ("scale", "gradient_at", "td_lambda")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    arguments = {"guide": given or None, "controller": options.controller} | settings
    sampling = arguments.pop("sampling", {})
    if options.level_schedule is not None:
        sampling = {"level_schedule": SCHEDULES[options.level_schedule]} | sampling
    planner = load_planner(run, **arguments)
    return planner.replace(sampling=planner.sampling.replace(**sampling))


def score_of(result: Evaluation) -> np.ndarray:
    return result.returns if result.normalized_scores is None else result.normalized_scores


def line(label: str, result: Evaluation, first: Evaluation | None, *more: object) -> str:
    """Return a row: score, difference to the first row, share that never arrives, time."""
    scores = score_of(result)
    low, high = interval(scores)
    cells = [label, f"{scores.mean():.1f} [{low:.1f}, {high:.1f}]", ""]
    if first is not None:
        gap, low, high = paired_difference(scores, score_of(first))
        cells[2] = f"{gap:+.1f} [{low:+.1f}, {high:+.1f}]"
    if result.steps_to_goal is not None:
        missed = np.isnan(result.steps_to_goal)
        cells.append(f"{np.nanmean(result.steps_to_goal):.0f}" if not missed.all() else "-")
        cells.append(f"{100 * missed.mean():.0f} %")
    cells += [f"{1e3 * result.agent_seconds / max(result.plans or 1, 1):.0f}", *map(str, more)]
    return "| " + " | ".join(cells) + " |"


def schedules(options: argparse.Namespace) -> None:
    """Evaluate every level schedule on equal episodes."""
    run = read_run(options.run)
    first = None
    print(
        "| | score | difference to full | steps to the goal | never arrives | ms a plan "
        "| network calls |"
    )
    for name, schedule in SCHEDULES.items():
        if options.rows and name not in options.rows:
            continue
        result = acted(
            options.run,
            options,
            lambda: gymnasium.make(run.task["id"]),
            sampling={"level_schedule": schedule},
        )
        print(line(name, result, first, _calls(options.run, schedule, run.task["id"])), flush=True)
        first = result if first is None else first


def _calls(run: Path, schedule: LevelSchedule, task: str) -> int:
    """Return the network calls of a plan: rows in which a token moves."""
    rows: list[SamplerStep] = []
    planner = load_planner(run)
    planner = planner.replace(sampling=planner.sampling.replace(level_schedule=schedule))
    planner.plan(gymnasium.make(task).reset(seed=0)[0], seed=0, callback=rows.append)
    return sum(row.x0_hat is not None for row in rows)


def futures(options: argparse.Namespace) -> None:
    """Measure gradients averaged over futures, with random forces on the dynamics.

    Gradients go through the denoiser by default: at x0 the gradient of a near token does not depend
    on later tokens. The last column counts the network's calls for one plan, and the trajectories
    in all of them.
    """
    run = read_run(options.run)
    options.gradient_at = options.gradient_at or "denoiser"

    def make(noise: float) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(
            run.task["id"], force_noise=noise, max_episode_steps=options.episode_steps
        )

    def row(label: str, noise: float, first: Evaluation | None, **settings: Any) -> Evaluation:
        result = acted(options.run, options, lambda: make(noise), **settings)
        planner = _planner(options.run, options, settings)
        seen: list[int] = []
        last = planner.model.network.token_out  # every call of the network ends there
        last.register_forward_hook(lambda _, x, __: seen.append(len(x[0])))
        planner.plan(make(noise).reset(seed=0)[0], seed=0)
        print(line(label, result, first, f"{len(seen)}, {sum(seen)}"), flush=True)
        return result

    arms: dict[str, dict[str, Any]] = {
        "no guide": {"guide": "none"},
        "the clean estimate": {},
        **{
            f"{count} futures": {"sampling": {"monte_carlo": MonteCarlo(futures=count, steps=2)}}
            for count in (1, 4, 16)
        },
    }
    print(
        "| | score | difference to the clean estimate | steps to the goal | never arrives "
        "| ms a plan | calls |"
    )
    first = None
    for noise in (0.0, options.force_noise):
        for label, settings in arms.items():
            if (options.rows and label not in options.rows) or (
                "sampling" in settings and not noise
            ):
                continue
            result = row(f"{label}, force noise {noise}", noise, first, **settings)
            first = result if label == "the clean estimate" else first


def _noises(run: Any, options: argparse.Namespace) -> dict[float, tuple[np.ndarray, float]]:
    """Return deviation and level of noise, by its share of the observations' deviation."""
    deviation = load_episodes(options.data).observations[:].std(axis=0)
    model = run.load("model", device="cpu")
    where = model.codec.layout.slices["observations"]
    scale = (model.codec.normalizer.scale / model.codec.normalizer.factor)[where].cpu().numpy()
    schedule = model.process.noise_schedule
    noises = {share: share * deviation for share in (0.05, 0.1, 0.2, 0.5)}
    return {
        share: (noise, level_of_noise(schedule, float(np.mean(noise / scale))))
        for share, noise in noises.items()
    }


def estimates(options: argparse.Namespace) -> None:
    """Print the errors of filtered observations by the number of past tokens."""
    run, source = read_run(options.run), np.random.default_rng(options.seed)
    model = run.load("model", device="cpu")
    segments, stride = model.dataset(load_episodes(options.data)), model.codec.spec.stride
    batch = segments.batch(source.choice(len(segments), size=2000))
    truth, done = batch.observations, batch.previous_actions
    contexts = (0, 1, 2, 4, 8)
    print("| noise | measured |" + "".join(f" {context} of the past |" for context in contexts))
    for share, (noise, level) in _noises(run, options).items():
        seen = (truth + noise * source.normal(size=truth.shape)).astype(np.float32)

        def error(estimate: np.ndarray, now: int) -> str:
            square = np.square(estimate - truth[:, now])
            return f"{square[:, :2].mean() ** 0.5:.3f}, {square[:, 2:].mean() ** 0.5:.3f}"

        cells = [f"{share}, level {level:.3f}", error(seen[:, 0], 0)]
        for now in contexts:
            past = ObservationHistory(
                observations=np.repeat(seen[:, :now], stride, axis=1),
                actions=done[:, 1 : now + 1].reshape(len(truth), now * stride, -1)
                if now
                else np.zeros((len(truth), 0, 2), np.float32),
                levels=np.full((len(truth), now * stride), level),
                moved=np.zeros((len(truth), now * stride, truth.shape[-1])),
                recorded=np.full(len(truth), now * stride),
            )
            cells.append(
                error(estimate_present(model, seen[:, now], np.full(len(truth), level), past), now)
            )
        print("| " + " | ".join(cells) + " |", flush=True)


def robustness(options: argparse.Namespace) -> None:
    """Evaluate planners with noisy and missing observations, with and without a filter."""
    run = read_run(options.run)
    print("| | score | difference to no filter | steps to the goal | never arrives | ms a plan |")
    for share, (noise, level) in _noises(run, options).items():
        if options.rows and str(share) not in options.rows:
            continue

        def make(noise: np.ndarray = noise) -> NoisyObservations:
            return NoisyObservations(gymnasium.make(run.task["id"]), noise=noise)

        bare = acted(options.run, options, make)
        print(line(f"noise {share}, no filter", bare, None), flush=True)
        for context in (0, options.context):
            result = acted(options.run, options, make, filter=_filter(context, noise_level=level))
            label = f"noise {share}, level {level:.3f}" + _with(context)
            print(line(label, result, bare), flush=True)

    if options.rows and "dropped" not in options.rows:
        return

    def dropping(stale: bool) -> NoisyObservations:
        return NoisyObservations(gymnasium.make(run.task["id"]), dropped=0.3, stale=stale)

    bare = acted(options.run, options, lambda: dropping(True))
    print(line("30 % dropped, the last one stays", bare, None), flush=True)
    for level, context in (
        *((level, 0) for level in (0.0, 0.05, 0.1, 0.2)),
        (0.1, options.context),
    ):
        result = acted(
            options.run,
            options,
            lambda: dropping(False),
            filter=_filter(context, missing_level=level),
        )
        label = f"30 % dropped, the plan's at level {level}" + _with(context)
        print(line(label, result, bare), flush=True)


def _filter(history_tokens: int, **levels: float) -> dict[str, float]:
    """Return the settings of an observation filter."""
    return {"history_tokens": history_tokens, **levels}


def _with(context: int) -> str:
    return f", with {context} tokens of the past" if context else ""


# ---------------------------------------------------------------------------------------- roll-outs


def long_rollouts(options: argparse.Namespace) -> None:
    """Print steps inside walls and speeds of roll-outs over ten horizons."""
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
    tokens = 10 * model.codec.tokens
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
    pyramid = Sampling(level_schedule=Pyramid(slope=1.0))
    arms = {
        "all together": Sampling(level_schedule=FullSequence()),
        "pyramid 1": pyramid,
        "pyramid 4": Sampling(level_schedule=Pyramid(slope=4.0)),
        "autoregressive": Sampling(level_schedule=Autoregressive()),
    }
    for level in (0.01, 0.02, 0.05):
        arms[f"pyramid 1, stabilised at {level}"] = pyramid.replace(stabilization=level)
    for weight in (0.5, 1.5, 2.0, 4.0):
        arms[f"pyramid 1, history x {weight}"] = pyramid.replace(
            history=HistoryGuidance.vanilla(weight)
        )
        arms[f"pyramid 1, history x {weight} at level 0.3"] = pyramid.replace(
            history=HistoryGuidance.fractional(weight, level=0.3)
        )
    for label, sampling in arms.items():
        if options.rows and label not in options.rows:
            continue
        began = time.perf_counter()
        made = rollout(
            model, begin, tokens=tokens, sampling=sampling.replace(steps=20), seed=options.seed
        )
        report(label, made.observations.cpu().numpy(), time.perf_counter() - began)
    baseline = NextToken(model, episodes, steps=options.updates, seed=options.seed)
    began = time.perf_counter()
    report("next-token regression", baseline.rollout(begin, tokens), time.perf_counter() - began)


@torch.no_grad()
def _inpainted(model: Any, begin: torch.Tensor, tokens: int, *, seed: int) -> np.ndarray:
    """Return roll-outs with one level for all tokens and a past noised to that level.

    This conditions models of one level for the whole sequence on a past (Lugmayr et al. 2022,
    "RePaint", without its repetitions; Janner et al. 2022 insert it clean). 20 steps of DDIM.
    """
    generator = torch.Generator().manual_seed(seed)
    horizon, level = model.codec.tokens, torch.linspace(1.0, 0.0, 21)
    schedule = model.process.noise_schedule
    x = model.inpaint(begin).values[:, :1]
    while x.shape[1] < tokens:
        context = 1 if x.shape[1] == 1 else horizon // 2
        past = x[:, -context:]
        shape = (len(begin), horizon, past.shape[2])
        window = torch.randn(shape, generator=generator)
        noise = torch.randn(past.shape, generator=generator)
        for now, then in pairwise(level):
            levels = now.expand(1, horizon)
            alpha, sigma, alpha_to, sigma_to = (
                float(part(one)) for one in (now, then) for part in (schedule.alpha, schedule.sigma)
            )
            window[:, :context] = alpha * past + sigma * noise
            x0_hat = model.denoise(window, levels)
            window = alpha_to * x0_hat + sigma_to * (window - alpha * x0_hat) / sigma
        x = torch.cat([x, window[:, context:]], dim=1)
    return np.asarray(model.codec.decode(x[:, :tokens]).observations)


def _jumps(path: np.ndarray) -> np.ndarray:
    """Return the distance from each position to the next."""
    return np.asarray(np.linalg.norm(np.diff(path[..., :2], axis=-2), axis=-1))


def _ks(one: np.ndarray, other: np.ndarray) -> float:
    """Return the greatest distance of two distribution functions."""
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
    parser.add_argument("--scale", type=float, help="scale of the guide")
    parser.add_argument("--gradient-at", help="where the guide's gradient is taken")
    parser.add_argument(
        "--td-lambda", type=float, help="lambda of the guide; the run's if left out"
    )
    parser.add_argument("--level-schedule", choices=SCHEDULES, help="the run's if left out")
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
