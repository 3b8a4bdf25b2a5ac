"""Synthetic data: memory of a large set, and the sampler's share of the machine's peak.

    python tests/benchmarks/generation.py memory [--transitions 5000000]
    python tests/benchmarks/generation.py speed [--network transformer] [--tokens 2048] [--compile]

Memory is the anonymous memory in addition to that of the process with its model. Speed is the
network's floating-point operations per second, divided by those of a matrix product on the same
threads, and compared with a plain loop of Heun's steps over the same network.
"""

import argparse
import copy
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from data import anonymous
from torch.utils.flop_counter import FlopCounterMode

from pgdiff import (
    DiffusionProcess,
    Episodes,
    InpaintingPatterns,
    Sampling,
    Tokens,
    TrajectoryDiffusion,
    generate,
)
from pgdiff.denoisers import ResidualMLPConfig, TemporalUnetConfig, TransformerConfig
from pgdiff.diffusion import Heun, KarrasSpacing
from pgdiff.synthesis import ShardSampler

SAMPLING = Sampling(steps=32, solver=Heun(), spacing=KarrasSpacing())
FIELDS = ("observations", "actions", "rewards", "terminals")
TRANSITION = (*FIELDS, "next_observations")
NETWORKS: dict[str, tuple[int, tuple[str, ...], object]] = {  # with the horizon and the fields
    "transformer": (32, FIELDS, TransformerConfig()),
    "transformer-256": (32, FIELDS, TransformerConfig(width=256)),
    "unet": (32, FIELDS, TemporalUnetConfig()),
    "transitions": (1, TRANSITION, ResidualMLPConfig()),
    "transitions-2048": (1, TRANSITION, ResidualMLPConfig(width=2048)),
}


def recording(*, rows: int = 20_000) -> Episodes:
    """Return noise with the shapes of Walker2d."""
    source = np.random.default_rng(0)
    return Episodes.from_arrays(
        observations=source.normal(size=(rows, 17)),
        actions=source.uniform(-1, 1, size=(rows, 6)),
        rewards=source.normal(size=rows),
        terminals=np.zeros(rows, bool),
        timeouts=np.arange(1, rows + 1) % 1000 == 0,
    )


def untrained(*, horizon: int, fields: tuple[str, ...], denoiser: object) -> TrajectoryDiffusion:
    """Return an untrained model of noise, with EDM's levels."""
    return TrajectoryDiffusion.from_episodes(
        recording(),
        Tokens(horizon=horizon, fields=fields, normalizer="standard"),
        process=DiffusionProcess.edm(),
        denoiser=denoiser,
        inpainting=InpaintingPatterns(patterns=("none",)),
    ).eval()


def memory(transitions: int) -> None:
    """Print the peak memory while `transitions` rows are written, with a tiny network."""
    tiny = ResidualMLPConfig(width=16, depth=1, embedding=8)
    model = untrained(horizon=1, fields=TRANSITION, denoiser=tiny)
    generate(model, transitions=10, batch=256, sampling=Sampling(steps=2))
    before, peak, done = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data.hdf5"
        made = generate(
            model, transitions=transitions, batch=20_000, sampling=Sampling(steps=2), out=out
        )
        size = out.stat().st_size / 1e6
    done.set()
    thread.join()
    print(
        f"{made.steps:,} transitions, {size:,.0f} MB, in {time.perf_counter() - began:.0f} s: at "
        f"most {peak[0] - before:.0f} MB above the {before:.0f} MB of the process with its model"
    )


def speed(network: str, threads: int, compiled: bool, tokens: list[int]) -> None:
    """Print the share of the peak of the sampler and of the plain loop, by batch."""
    torch.set_num_threads(threads)
    horizon, fields, denoiser = NETWORKS[network]
    model = untrained(horizon=horizon, fields=fields, denoiser=denoiser)
    best = max(product(size) for size in (512, 1024, 2048))
    print(f"matrix product: {best / 1e9:.0f} GFLOP/s with {threads} threads")
    for batch in [count // horizon for count in tokens]:
        loop = median(timed(lambda b=batch: eager(model, b)) for _ in range(3))  # type: ignore[misc]
        with FlopCounterMode(display=False) as counter:
            eager(model, batch)
        work = counter.get_total_flops()
        sampler = ShardSampler(
            model=copy.deepcopy(model),
            batch=batch,
            sampling=SAMPLING,
            threads=threads,
            compile=compiled,
        )
        sampler.shard(0)
        shard_seconds = median(timed(lambda s=sampler: s.shard(1)) for _ in range(3))  # type: ignore[misc]
        print(
            f"batch {batch:>5}: {batch * model.codec.tokens / shard_seconds:,.0f} rows/s, "
            f"{work / shard_seconds / best:.0%} of the peak; plain loop {work / loop / best:.0%}",
            flush=True,
        )


def product(size: int) -> float:
    """Return the floating-point operations a second of a matrix product."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    left @ right
    return 2 * size**3 / min(timed(lambda: left @ right) for _ in range(20))


@torch.no_grad()
def eager(model: TrajectoryDiffusion, batch: int) -> torch.Tensor:
    """Return samples of a plain loop of Heun's steps over the model's denoiser."""
    levels = model.level_matrix(SAMPLING)[:, :1].float()
    schedule = model.process.noise_schedule
    alpha, sigma = schedule.alpha(levels), schedule.sigma(levels)
    x = torch.randn(batch, model.codec.tokens, model.codec.features)
    for now, level in enumerate(levels[:-1]):
        after = levels[now + 1]
        slope = _slope(model, x, level, alpha[now], sigma[now])
        step = sigma[now + 1] / alpha[now + 1] - sigma[now] / alpha[now]
        y = x / alpha[now] + step * slope
        if now + 2 < len(levels):
            other = _slope(model, alpha[now + 1] * y, after, alpha[now + 1], sigma[now + 1])
            y = x / alpha[now] + step * (slope + other) / 2
        x = alpha[now + 1] * y
    return x


def _slope(
    model: TrajectoryDiffusion,
    x: torch.Tensor,
    level: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
) -> torch.Tensor:
    clean = model.denoise(x, level.expand(1, x.shape[1]))
    return (x / alpha - clean) / (sigma / alpha)


def timed(work: object) -> float:
    """Return the seconds of a call."""
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def main() -> None:
    """Measure memory or speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--transitions", type=int, default=5_000_000)
    parser.add_argument("--network", choices=list(NETWORKS), default="transformer")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[512, 2048, 8192], help="tokens of a batch"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.what == "memory":
        memory(options.transitions)
    else:
        speed(options.network, options.threads, options.compile, options.tokens)


if __name__ == "__main__":
    main()
