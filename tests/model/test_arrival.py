"""Goals with a free arrival, goals at rest, and conversion between fields and tokens."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import generator, tiny_model, walk

from pgdiff import TrajectoryDiffusion
from pgdiff.core.validation import PgdiffError
from pgdiff.training.learner import to_tensors

EPISODES = walk()
ARRIVAL = tiny_model(EPISODES, known=("start_arrival",))
START = torch.tensor([[0.1, 0.2, -0.3, 0.4], [-0.5, 0.6, 0.0, 0.1], [0.0, 0.3, 0.2, -0.1]])
GOAL = torch.tensor([[0.5, -0.5], [0.2, 0.9], [-0.7, 0.1]])


def chi_square(counts: list[int]) -> float:
    """Return the probability of counts at least as uneven under a uniform law (Pearson's test)."""
    even = sum(counts) / len(counts)
    statistic = sum((count - even) ** 2 / even for count in counts)
    half = torch.tensor([(len(counts) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def shown(model: TrajectoryDiffusion, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the network's inputs for `count` segments, and the segments."""
    seen: list[Tensor] = []

    def spy(module: nn.Module, arguments: Any) -> None:
        seen.append(arguments[0])

    hook = model.network.register_forward_pre_hook(spy)
    dataset = model.dataset(EPISODES)
    batch = dataset.batch(np.random.default_rng(seed).integers(0, len(dataset), count))
    batch = to_tensors(batch, torch.device("cpu"))
    model.losses(batch, generator(seed))
    hook.remove()
    return seen[0], model.codec.encode(batch)


# -------------------------------------------------------------------------------------- training


def test_every_token_of_arrival_is_drawn_alike() -> None:
    """Chi-square of the tokens at which the network receives the goal."""
    x, x0 = shown(ARRIVAL, 3000, seed=0)
    clean = (x[:, 1:, :2] == x0[:, 1:, :2]).all(dim=-1)
    assert (clean.sum(dim=-1) == 1).all(), "one token of arrival in every segment"
    assert (x[:, 0] == x0[:, 0]).all() and (x[:, 1:, 2:] != x0[:, 1:, 2:]).all()
    counts = clean.sum(dim=0).tolist()
    p = chi_square(counts)
    print(f"\nsegments shown the goal at tokens 1 to 5: {counts}, p = {p:.2f}")
    assert p > 1e-3


def test_patterns_are_drawn_alike_however_many_masks_they_have() -> None:
    model = tiny_model(EPISODES, known=("none", "start_arrival", "start"))
    x, x0 = shown(model, 3000, seed=1)
    start = (x[:, 0] == x0[:, 0]).all(dim=-1)
    goal = (x[:, 1:, :2] == x0[:, 1:, :2]).all(dim=-1)
    assert not goal[~start].any()
    kinds = [int((~start).sum()), int(goal.any(dim=-1).sum())]
    kinds.append(3000 - sum(kinds))
    p = chi_square(kinds), chi_square(goal.sum(dim=0).tolist())
    print(f"\nnone, start_arrival, start: {kinds}; p = {p[0]:.2f} and {p[1]:.2f} of the tokens")
    assert min(p) > 1e-3


# -------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize("rest", [(), (2, 3)])
def test_what_is_given_with_an_arrival(rest: tuple[int, ...]) -> None:
    model = tiny_model(EPISODES, known=("start_goal", "start_arrival"), rest=rest)
    arrival = torch.tensor([1, 5, 3])
    known = model.inpaint(START, GOAL, arrival)
    raw = model.codec.normalizer.unnormalize(known.values)
    mask = known.mask.expand(3, 6, 4)
    for i in range(3):
        for token in range(6):
            held = [token == arrival[i]] * 2 + [bool(rest) and bool(token == arrival[i])] * 2
            assert mask[i, token].tolist() == ([True] * 4 if token == 0 else held)
        torch.testing.assert_close(raw[i, 0], START[i])
        torch.testing.assert_close(raw[i, arrival[i]], torch.cat([GOAL[i], torch.zeros(2)]))
    # Without an arrival the goal is at the last token.
    last = model.inpaint(START, GOAL)
    latest = model.inpaint(START, GOAL, torch.full((3,), 5))
    assert torch.equal(last.mask.expand(3, 6, 4), latest.mask.expand(3, 6, 4))
    assert torch.equal(last.values, latest.values)


def test_rest_is_shown_in_training_and_written_down(tmp_path: Any) -> None:
    model = tiny_model(EPISODES, known=("start_goal",), rest=(2, 3))
    x, x0 = shown(model, 50, seed=0)
    assert torch.equal(x[:, -1], x0[:, -1])
    model.save_pretrained(tmp_path / "model")
    again = TrajectoryDiffusion.from_pretrained(tmp_path / "model")
    assert again.codec.inpainting.zero_at_goal == (2, 3)
    assert again.codec.pattern("start_goal")[-1].all()
    assert tiny_model(EPISODES).codec.inpainting.zero_at_goal == ()


def test_a_model_of_free_arrivals_takes_the_last_token_without_a_warning() -> None:
    ARRIVAL.inpaint(START, GOAL)
    with pytest.warns(UserWarning, match="not with 'start_arrival'"):
        tiny_model(EPISODES, known=("start_goal",)).inpaint(START, GOAL, torch.ones(3).long())


@pytest.mark.usefixtures("unchecked")
def test_bad_requests_are_named() -> None:
    for wrong in ([0, 1, 2], [1, 2, 6], [1, 2]):
        with pytest.raises(PgdiffError, match=r"`arrival` must hold a token in 1 to 5 for each"):
            ARRIVAL.inpaint(START, GOAL, torch.tensor(wrong))
    for rest, message in (
        ((2, 4), "`zero_at_goal` must be indices of the 4"),
        ((1,), "`zero_at_goal` must not share"),
    ):
        with pytest.raises(PgdiffError, match=message):
            tiny_model(EPISODES, known=("start_arrival",), rest=rest)


# ---------------------------------------------------------------------------------------- tokens


def test_the_tokens_of_a_plan_are_its_tokens() -> None:
    for fields, stride in (
        (("observations",), 3),
        (("observations", "actions"), 1),
        (("actions", "observations"), 1),
        (("observations", "action_chunks"), 3),
        (("action_chunks", "observations"), 2),
    ):
        check_tokens(fields, stride)


def check_tokens(fields: tuple[str, ...], stride: int) -> None:
    model = tiny_model(EPISODES, fields=fields, stride=stride)
    x = torch.rand(7, 6, model.codec.features, generator=generator(0)) * 2 - 1
    segment = model.codec.decode(x)
    held = segment.actions if segment.action_chunks is None else segment.action_chunks
    actions = None if held is None else held.reshape(7, 6 * stride, 2).numpy()
    plan = model.codec.as_batch(segment.observations.numpy(), actions)
    torch.testing.assert_close(model.codec.encode(plan), x, atol=1e-6, rtol=0)
    # Recorded segments too.
    dataset = model.dataset(EPISODES)
    batch = dataset.batch(np.arange(40))
    rows, _ = dataset.index.rows(np.arange(40))
    steps = (rows[..., None] + np.arange(stride)).reshape(40, -1)
    inside = (steps // 80 == steps[:, :1] // 80).all(axis=1)
    plan = model.codec.as_batch(batch.observations, EPISODES.actions[steps])
    recorded = model.codec.encode(plan)
    expected = model.codec.encode(to_tensors(batch, torch.device("cpu")))
    assert inside.sum() > 20 and torch.equal(recorded[inside], expected[inside])
