"""Synthetic experience, written shard by shard."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pgdiff.data import Episodes, load_episodes
from pgdiff.diffusion import Solver, TrustRegion
from pgdiff.diffusion.spacing import Spacing
from pgdiff.guides import Guide
from pgdiff.model import TrajectoryDiffusion
from pgdiff.synthesis.decode import Counts, Ends
from pgdiff.synthesis.sampling import ShardSampler
from pgdiff.synthesis.shards import ShardFolder, shards_of
from pgdiff.training import sharing
from pgdiff.trajectory import Condition
from pgdiff.validation import PgdiffError, check_positive_int


def generate(
    model: TrajectoryDiffusion,
    *,
    transitions: int,
    out: str | os.PathLike[str] | None = None,
    guides: Sequence[Guide] = (),
    seed: int = 0,
    batch: int = 256,
    steps: int = 32,
    solver: Solver | None = None,
    spacing: Spacing | None = None,
    trust_region: TrustRegion | None = None,
    condition: Condition | None = None,
    ends: Ends | None = None,
    threads: int = 1,
    compile: bool = False,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Episodes:
    """Write synthetic experience: trajectories, or transitions of a model with a horizon of 1.

    Shard i holds `batch` trajectories whose noise is of (seed, i) alone, so it is the same whoever
    makes it, and when. As many whole shards are made as hold `transitions` rows. They lie in
    `<out>.shards/`, each as a file in D4RL's layout with its SHA-256, and are joined to `out` at
    the end; memory stays at one shard.

    Args:
        model: generates observations, actions, rewards and terminals, one token a step.
        transitions: rows at least.
        out: an HDF5 file to write; in memory alone if None.
        guides: what steers the sampling, for example `Policy("agent.zip")`.
        seed: of all noise.
        batch: trajectories of a shard.
        steps: of the sampler.
        solver: the churned Heun's method if None.
        spacing: which levels a token visits; equal steps of the level if None.
        trust_region: limits how far guides move a sample.
        condition: what the trajectories are to be like; None for any.
        ends: which observations end an episode, such as `TaskEnds("pgdiff_envs:walker2d-v5")`; None
            for the terminals alone that the model draws.
        threads: of torch in each worker, which the last bits of the result depend on.
        compile: whether the model's networks are compiled, which they depend on as well; it takes
            half a minute, then saves up to a quarter of the time where nothing steers.
        workers: processes that make shards side by side; what is written does not depend on them. A
            script that asks for some needs its `if __name__ == "__main__":`.
        resume: go on with shards that are there, of the same settings.
        overwrite: begin anew where there are some.
        progress: whether a bar shows rate and time left.

    Returns:
        The rows as episodes, memory-mapped where they were written.

    Raises:
        PgdiffError: a model that generates no transitions, guides that do not fit it or diverge,
            an existing `out`, shards of other settings or damaged ones, or a full disk.
    """
    transitions = check_positive_int("transitions", transitions)
    workers = check_positive_int("workers", workers)
    sampler = ShardSampler(
        model=model,
        guides=tuple(guides),
        seed=seed,
        batch=batch,
        steps=steps,
        solver=solver,
        spacing=spacing,
        trust_region=trust_region,
        condition=condition,
        ends=ends,
        threads=threads,
        compile=compile,
    )
    bar = tqdm(total=transitions, desc="generating", unit="row", disable=not progress)
    with bar, _maker(sampler, workers) as make:
        if out is None:
            return _in_memory(sampler, transitions, make, bar)
        path = Path(out)
        folder = prepared(path, sampler, resume=resume, overwrite=overwrite)
        try:
            numbers = _written(sampler, folder, transitions, make, bar)
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
    progress: bool = True,
) -> None:
    """Make every `parts`-th shard of a data set, from number `part` on, and join nothing.

    So jobs on several machines share one data set; `generate` with `resume=True` then makes what is
    missing, if anything, and joins all. Shards that are there already are kept.

    Args:
        sampler: makes the shards, the same one in every job.
        transitions: of the whole data set; this part makes its share.
        out: the file of the whole data set.
        part: of `parts`, from 0.
        parts: that share the data set.
        workers: processes of this job.
        progress: whether a bar shows rate and time left.

    Raises:
        PgdiffError: as `generate`.
    """
    transitions = check_positive_int("transitions", transitions)
    workers = check_positive_int("workers", workers)
    part, parts = check_positive_int("part", part, minimum=0), check_positive_int("parts", parts)
    if part >= parts:
        raise PgdiffError(f"`part` must be 0 to {parts - 1}, below `parts`. Got {part}.")
    share = -(-transitions // parts)
    bar = tqdm(total=share, desc=f"part {part} of {parts}", unit="row", disable=not progress)
    with bar, _maker(sampler, workers) as make:
        folder = prepared(Path(out), sampler, resume=True, overwrite=False)
        _written(sampler, folder, share, make, bar, first=part, apart=parts)


Made = tuple[int, dict[str, np.ndarray], Counts]
Make = Callable[[Iterable[int]], Iterator[Made]]


def prepared(out: Path, sampler: ShardSampler, *, resume: bool, overwrite: bool) -> ShardFolder:
    """Return the folder of shards of an output, checked against what is there.

    Raises:
        PgdiffError: an output or shards that neither `resume` nor `overwrite` allows, or shards of
            other settings.
    """
    if out.is_dir():
        raise PgdiffError(f"`out` must be a file. Got the folder '{out}'.")
    folder = ShardFolder(shards_of(out))
    if overwrite:
        shutil.rmtree(folder.path, ignore_errors=True)
    elif not resume:
        for there in (out, folder.path):
            if there.exists():
                raise PgdiffError(
                    f"'{there}' exists. resume=true goes on with it, overwrite=true begins anew, "
                    "out=PATH names another place."
                )
    if resume and out.exists() and not folder.path.exists():
        raise PgdiffError(
            f"'{out}' exists without its shards, '{folder.path}': it may be other data. "
            "overwrite=true replaces it, out=PATH names another place."
        )
    folder.begin(sampler.settings())
    for number in folder.finished():
        folder.verify(number)
    return folder


def _written(
    sampler: ShardSampler,
    folder: ShardFolder,
    transitions: int,
    make: Make,
    bar: tqdm,
    *,
    first: int = 0,
    apart: int = 1,
) -> range:
    """Make shards until they hold enough, those that are there left out; return their numbers."""
    total, count = 0, first
    while total < transitions:
        # No shard holds more than `most`: as many are surely needed, whoever makes them.
        upper = count + apart * -(-(transitions - total) // sampler.most)
        numbers = range(count, upper, apart)
        for number, rows, counts in make(n for n in numbers if folder.counts(n) is None):
            folder.write(number, rows, counts)
            bar.update(counts.transitions)
        found = [folder.counts(number) for number in numbers]
        total += sum(counts.transitions for counts in found if counts is not None)
        bar.n = min(total, transitions)
        count = upper
    return range(first, count, apart)


def _in_memory(sampler: ShardSampler, transitions: int, make: Make, bar: tqdm) -> Episodes:
    parts: list[dict[str, np.ndarray]] = []
    total = 0
    while total < transitions:
        needed = -(-(transitions - total) // sampler.most)
        for _, made, counts in make(range(len(parts), len(parts) + needed)):
            parts.append(made)
            total += counts.transitions
            bar.update(counts.transitions)
    rows: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    return Episodes.from_arrays(**rows)


# ---------------------------------------------------------------------------------------- workers

_SAMPLER: ShardSampler | None = None


def _begin(sent: bytes) -> None:
    global _SAMPLER
    _SAMPLER = sharing.loads(sent)


def _shard(number: int) -> Made:
    assert _SAMPLER is not None
    return number, *_SAMPLER.shard(number)


@contextmanager
def _maker(sampler: ShardSampler, workers: int) -> Iterator[Make]:
    """Give what makes shards of given numbers, here or in so many processes."""
    if workers == 1:
        yield lambda numbers: ((number, *sampler.shard(number)) for number in numbers)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(sharing.dumps(sampler),)
    )

    def make(numbers: Iterable[int]) -> Iterator[Made]:
        # A few at a time: what is made waits in memory until it is written.
        waiting = list(numbers)
        try:
            for first in range(0, len(waiting), 2 * workers):
                yield from pool.map(_shard, waiting[first : first + 2 * workers])
        except BrokenProcessPool as error:
            raise PgdiffError(
                "A worker was killed, perhaps for want of memory: finished shards are kept, go on "
                "with fewer workers or a smaller batch. Or it could not begin: a script needs its "
                '`if __name__ == "__main__":`, and guides and `ends` must be importable.'
            ) from error

    try:
        yield make
    finally:
        pool.shutdown(cancel_futures=True)
