"""Generation of synthetic experience, shard by shard."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from pgdiff.core import processes
from pgdiff.core.validation import PgdiffError, check_flag, check_in, check_positive_int
from pgdiff.data import Episodes, load_episodes
from pgdiff.diffusion import Sampling
from pgdiff.guides import Guide
from pgdiff.model import TrajectoryDiffusion
from pgdiff.synthesis.decode import Counts, Ends
from pgdiff.synthesis.shard_sampler import ShardSampler
from pgdiff.synthesis.shards import ShardFolder, shards_of
from pgdiff.trajectory import Condition


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Processes that generate shards. The result does not depend on their number.

    Attributes:
        processes: number of processes that generate shards in parallel. A script that uses more
            than one must guard its code with `if __name__ == "__main__":`.
        threads: PyTorch threads of each process. The result depends on it by rounding.
        compile: True to compile the model's networks. Compilation takes half a minute and then
            saves up to a quarter of the time without guides. The result depends on it by rounding.

    Example:
        >>> from pgdiff.synthesis import Workers
        >>> Workers(processes=4).threads
        1
    """

    processes: int = 1
    threads: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        check_positive_int("processes", self.processes)
        check_positive_int("threads", self.threads)
        check_flag("compile", self.compile)


def generate(
    model: TrajectoryDiffusion,
    guides: Guide | Sequence[Guide] = (),
    *,
    transitions: int,
    out: str | os.PathLike[str] | None = None,
    sampling: Sampling | None = None,
    batch: int = 256,
    condition: Condition | None = None,
    termination: Ends | None = None,
    seed: int = 0,
    workers: int | Workers = 1,
    on_existing: Literal["error", "resume", "overwrite"] = "error",
) -> Episodes:
    """Generate synthetic trajectories, or single transitions if the model's horizon is 1.

    Shard i holds `batch` trajectories whose noise depends only on (seed, i), so any process can
    generate it at any time. The number of shards is the smallest that holds `transitions` rows.
    Shards are stored in the folder `<out>.shards/`, each in a file in D4RL's layout with its
    SHA-256, and joined to `out` at the end. Memory holds one shard at a time.

    Args:
        model: model that generates observations, actions, rewards and terminals, with stride 1.
        guides: guides of the sampling, for example `Policy("agent.zip")`.
        transitions: smallest number of rows.
        out: HDF5 file to write; None keeps the rows in memory.
        sampling: settings of the sampling; by default 32 steps of the churned Heun method of Karras
            et al. (2022).
        batch: trajectories per shard.
        condition: raw values that the trajectories are conditioned on.
        termination: rule that marks the observations that end an episode, such as
            `TaskEnds("pgdiff_envs:walker2d-v5")`; None uses only the sampled terminals.
        seed: seed of all noise.
        workers: number of processes that generate shards, or their settings.
        on_existing: action if output exists: "resume" continues shards with equal settings,
            "overwrite" replaces them, "error" raises.

    Returns:
        The rows as episodes, memory-mapped from `out` if it is given.

    Raises:
        PgdiffError: the model does not generate transitions, the guides do not fit it or diverge,
            `out` exists, shards are damaged or have other settings, or the disk is full.

    Example:
        >>> from pgdiff import Sampling, Tokens, TrajectoryDiffusion, InpaintingPatterns, generate
        >>> from pgdiff.testing import example_episodes
        >>> model = TrajectoryDiffusion.from_episodes(
        ...     example_episodes(), Tokens.transitions(horizon=8),
        ...     inpainting=InpaintingPatterns(patterns=("none",)),
        ... )
        >>> data = generate(model, transitions=100, sampling=Sampling(steps=2), batch=16)
        >>> data.steps >= 100
        True
    """
    transitions = check_positive_int("transitions", transitions)
    check_in("on_existing", on_existing, ("error", "resume", "overwrite"))
    if not isinstance(workers, Workers):
        workers = Workers(processes=check_positive_int("workers", workers))
    sampler = ShardSampler(
        model=model,
        guides=tuple(guides) if isinstance(guides, Sequence) else (guides,),
        seed=seed,
        batch=batch,
        sampling=sampling,
        condition=condition,
        termination=termination,
        threads=workers.threads,
        compile=workers.compile,
    )
    bar = tqdm(total=transitions, desc="generating", unit="row", disable=None)
    with bar, _shard_maker(sampler, workers.processes) as make:
        if out is None:
            return _generate_in_memory(sampler, transitions, make, bar)
        path = Path(out)
        folder = prepare_folder(path, sampler, on_existing=on_existing)
        try:
            numbers = _write_shards(sampler, folder, transitions, make, bar)
        except BaseException:
            if not folder.finished():
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
    folder.join(numbers, path)
    return load_episodes(path)


def write_part(
    sampler: ShardSampler,
    *,
    transitions: int,
    out: str | os.PathLike[str],
    part: int,
    parts: int,
    workers: int = 1,
) -> None:
    """Generate every `parts`-th shard of a data set, starting with shard `part`.

    Jobs on several machines can thus share one data set. Existing shards are kept. Afterwards
    `generate` with `on_existing="resume"` adds missing shards and joins all of them.

    Args:
        sampler: sampler of the shards, with equal settings in every job.
        transitions: smallest number of rows of the whole data set.
        out: HDF5 file of the whole data set.
        part: index of this job, from 0.
        parts: number of jobs.
        workers: number of processes of this job.

    Raises:
        PgdiffError: see `generate`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pgdiff import InpaintingPatterns, Sampling, Tokens, TrajectoryDiffusion
        >>> from pgdiff.synthesis import ShardSampler, write_part
        >>> from pgdiff.testing import example_episodes
        >>> model = TrajectoryDiffusion.from_episodes(
        ...     example_episodes(), Tokens.transitions(horizon=8),
        ...     inpainting=InpaintingPatterns(patterns=("none",)),
        ... )
        >>> sampler = ShardSampler(model=model, batch=8, sampling=Sampling(steps=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_part(sampler, transitions=40, out=Path(folder) / "s.hdf5", part=1, parts=2)
        ...     sorted(file.name for file in Path(folder).rglob("0*.hdf5"))
        ['00001.hdf5']
    """
    transitions = check_positive_int("transitions", transitions)
    workers = check_positive_int("workers", workers)
    part, parts = check_positive_int("part", part, minimum=0), check_positive_int("parts", parts)
    if part >= parts:
        raise PgdiffError(f"`part` must be 0 to {parts - 1}, less than `parts`. Got {part}.")
    share = -(-transitions // parts)
    bar = tqdm(total=share, desc=f"part {part} of {parts}", unit="row", disable=None)
    with bar, _shard_maker(sampler, workers) as make:
        folder = prepare_folder(Path(out), sampler, on_existing="resume")
        _write_shards(sampler, folder, share, make, bar, first=part, step=parts)


NumberedShard = tuple[int, dict[str, np.ndarray], Counts]
Make = Callable[[Iterable[int]], Iterator[NumberedShard]]


def prepare_folder(out: Path, sampler: ShardSampler, *, on_existing: str) -> ShardFolder:
    """Return the folder of an output's shards after checking the existing shards.

    Raises:
        PgdiffError: `on_existing` does not allow the existing files, or shards have other settings
            or are damaged.
    """
    if out.is_dir():
        raise PgdiffError(f"`out` must be a file. Got the folder '{out}'.")
    folder = ShardFolder(shards_of(out))
    resume = on_existing == "resume"
    if on_existing == "overwrite":
        shutil.rmtree(folder.path, ignore_errors=True)
    elif not resume:
        for path in (out, folder.path):
            if path.exists():
                raise PgdiffError(
                    f"'{path}' exists. Pass on_existing='resume' to continue it (resume=true on "
                    "the command line), 'overwrite' to replace it (overwrite=true), or another "
                    "`out`."
                )
    if resume and out.exists() and not folder.path.exists():
        raise PgdiffError(
            f"'{out}' exists without its shards in '{folder.path}' and may hold other data. "
            "Pass on_existing='overwrite' to replace it (overwrite=true on the command line), or "
            "another `out`."
        )
    folder.begin(sampler.settings())
    for number in folder.finished():
        folder.verify(number)
    return folder


def _write_shards(
    sampler: ShardSampler,
    folder: ShardFolder,
    transitions: int,
    make: Make,
    bar: tqdm,
    *,
    first: int = 0,
    step: int = 1,
) -> range:
    """Write missing shards until all hold enough transitions; return the numbers of all."""
    total, count = 0, first
    while total < transitions:
        # A lower bound of the number of shards, so that it does not depend on the processes.
        upper = count + step * -(-(transitions - total) // sampler.max_transitions)
        numbers = range(count, upper, step)
        for number, rows, counts in make(n for n in numbers if folder.counts(n) is None):
            folder.write(number, rows, counts)
            bar.update(counts.transitions)
        written = [folder.counts(number) for number in numbers]
        total += sum(counts.transitions for counts in written if counts is not None)
        bar.n = min(total, transitions)
        count = upper
    return range(first, count, step)


def _generate_in_memory(sampler: ShardSampler, transitions: int, make: Make, bar: tqdm) -> Episodes:
    parts: list[dict[str, np.ndarray]] = []
    total = 0
    while total < transitions:
        needed = -(-(transitions - total) // sampler.max_transitions)
        for _, shard, counts in make(range(len(parts), len(parts) + needed)):
            parts.append(shard)
            total += counts.transitions
            bar.update(counts.transitions)
    rows: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return Episodes.from_arrays(**rows)


# ---------------------------------------------------------------------------------------- workers

_SAMPLER: ShardSampler | None = None


def _init_worker(sampler: bytes) -> None:
    global _SAMPLER
    _SAMPLER = processes.loads(sampler)


def _make_shard(number: int) -> NumberedShard:
    assert _SAMPLER is not None
    return number, *_SAMPLER.shard(number)


@contextmanager
def _shard_maker(sampler: ShardSampler, workers: int) -> Iterator[Make]:
    """Provide a function that generates shards by number, in this or in `workers` processes."""
    if workers == 1:
        yield lambda numbers: ((number, *sampler.shard(number)) for number in numbers)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_init_worker, initargs=(processes.dumps(sampler),)
    )

    def make(numbers: Iterable[int]) -> Iterator[NumberedShard]:
        # In small groups, because finished shards stay in memory until they are written.
        waiting = list(numbers)
        try:
            for first in range(0, len(waiting), 2 * workers):
                yield from pool.map(_make_shard, waiting[first : first + 2 * workers])
        except BrokenProcessPool as error:
            raise PgdiffError(
                "A worker process ended unexpectedly. Finished shards are kept. If memory ran out, "
                "resume with fewer workers or a smaller batch. If it did not start, guard the "
                'script with `if __name__ == "__main__":` and pass importable guides and '
                "`termination`."
            ) from error

    try:
        yield make
    finally:
        pool.shutdown(cancel_futures=True)
