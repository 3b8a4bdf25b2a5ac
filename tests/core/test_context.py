"""Contexts: the laws of their operations, row by row."""

from itertools import product

import pytest
import torch
from torch import Tensor

from pgdiff.core.context import Context, Entry, cat
from pgdiff.core.validation import PgdiffError

ROWS = 3


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entry(*shape: int, rows: int = ROWS, seed: int = 0, absent: int | None = None) -> Entry:
    """Return random values; row `absent` has none."""
    present = torch.arange(rows) != (rows if absent is None else absent)
    value = torch.randn(rows, *shape, generator=generator(seed))
    return Entry(value * present.view(-1, *[1] * len(shape)), present)


def mixed() -> Context:
    """Return the joint vector, a map that one row lacks, and a track that stands for all rows."""
    return Context(
        {
            "condition": entry(4, seed=1),
            "walls": entry(2, 5, 5, seed=2, absent=1),
            "track": entry(6, 2, seed=3, rows=1),
        }
    )


def row(context: Context, name: str, number: int) -> tuple[Tensor, bool]:
    """Return value and presence of a row; the only row of an entry stands for all."""
    part = context[name]
    at = number if len(part.value) > 1 else 0
    return part.value[at], bool(part.present[at])


def check_rows(context: Context, sources: list[tuple[Context, int]]) -> None:
    """Check that the context holds these rows of other contexts, row by row."""
    assert context.batch == len(sources)
    for number, (source, original) in enumerate(sources):
        assert context.names == source.names
        for name in context.names:
            got, expected = row(context, name, number), row(source, name, original)
            assert torch.equal(got[0], expected[0]) and got[1] == expected[1], (name, number)


def test_operations_on_rows() -> None:
    context = mixed()
    check_rows(context.tile(2), [(context, n) for n in (0, 1, 2, 0, 1, 2)])
    check_rows(context.interleave(2), [(context, n) for n in (0, 0, 1, 1, 2, 2)])
    check_rows(context.expand(ROWS), [(context, n) for n in (0, 1, 2)])
    for index in ([2, 0, 0, 1], torch.tensor([2, 0, 0, 1])):
        check_rows(context.rows(index), [(context, n) for n in (2, 0, 0, 1)])
    check_rows(context.rows(slice(1, 3)), [(context, 1), (context, 2)])
    check_rows(context.rows(torch.tensor([True, False, True])), [(context, 0), (context, 2)])
    swapped = context.rows([2, 1, 0])
    check_rows(cat([context, swapped]), [(context, n) for n in (0, 1, 2, 2, 1, 0)])
    for count in (1, 4):
        assert context.tile(count).rows(slice(ROWS)).same(context)
        assert context.interleave(count).rows(slice(None, None, count)).same(context)
        copies = [context.expand(ROWS)] * count
        assert cat(copies).same(context.expand(ROWS).tile(count))


def test_one_row_stands_for_all() -> None:
    context = mixed().rows(slice(1)).rows([0, 0, 0])
    one = Context({name: mixed()[name].map(lambda t: t[:1]) for name in mixed().names})
    assert one.batch == 1 and context.batch == 1
    for same in (one.tile(5), one.interleave(5), one.rows([0, 0]), one.rows(slice(1))):
        assert same.same(one)
    whole = one.expand(4)
    assert whole.batch == 4 and not whole.same(one)
    check_rows(whole, [(one, 0)] * 4)
    check_rows(cat([one, mixed()]), [(one, 0), *((mixed(), n) for n in range(ROWS))])


def test_dropped_entries_are_zero_and_absent() -> None:
    rows = torch.tensor([True, False, True])
    for names, mask in product((None, ["walls"], ["walls", "track"], []), (None, rows)):
        context = mixed()
        dropped = context.drop(names, rows=mask)
        assert dropped.names == context.names and context.same(mixed()), "a new context"
        for name, number in product(context.names, range(ROWS)):
            value, present = row(dropped, name, number)
            before, had = row(context, name, number)
            hidden = (names is None or name in names) and (mask is None or bool(mask[number]))
            assert torch.equal(value, torch.zeros_like(before) if hidden else before)
            assert present == (had and not hidden)
    assert mixed().drop(["track"], rows=rows)["track"].present.tolist() == [False, True, False]


def test_same_compares_names_shapes_values_and_presence() -> None:
    context = mixed()
    assert context.same(mixed()) and not context.same(None)
    others = [
        Context({name: context[name] for name in ("condition", "walls")}),
        Context({name: context[name] for name in ("walls", "condition", "track")}),
        context.expand(ROWS),
        context.rows([1, 0, 2]),
        context.drop(["walls"]),
        context.map(lambda t: t if t.dtype == torch.bool else t + 1e-6),
        context.map(lambda t: ~t if t.dtype == torch.bool else t),
    ]
    assert not any(context.same(other) or other.same(context) for other in others)


def test_types_of_values_change_and_flags_stay() -> None:
    context = mixed().to(torch.float64)
    for part in context.entries.values():
        assert part.value.dtype == torch.float64 and part.present.dtype == torch.bool
    assert context.to(torch.float32, "cpu").same(mixed())
    assert context.to(torch.float32, "meta")["walls"].present.device.type == "meta"


# ----------------------------------------------------------------------------------- the vector


def test_the_joint_vector_alone_is_itself() -> None:
    vector = torch.randn(ROWS, 4, generator=generator(0))
    vector[:, -1] = torch.tensor([1.0, 0.0, 1.0])
    context = Context.from_vector(vector)
    assert context.vector is vector, "bit for bit, without a copy"
    assert context["condition"].present.tolist() == [True, False, True]
    walls = entry(2, 5, 5)
    assert Context({"walls": walls} | dict(context.entries)).vector is vector
    assert Context({"walls": walls}).vector is None


def test_the_vector_appends_flags() -> None:
    joint, speed, place = entry(4, seed=1), entry(2, seed=2, absent=0), entry(3, seed=3, rows=1)
    context = Context({"condition": joint, "walls": entry(5, 5), "speed": speed, "place": place})
    flag = torch.tensor([[0.0], [1.0], [1.0]])
    expected = torch.cat(
        [joint.value, speed.value, flag, place.value.expand(3, -1), torch.ones(3, 1)], dim=1
    )
    assert context.vector is not None and torch.equal(context.vector, expected)
    alone = Context({"speed": speed}).vector
    assert alone is not None and torch.equal(alone, torch.cat([speed.value, flag], dim=1))
    for count in (1, 2):
        assert context.tile(count).vector is not None
        assert torch.equal(context.tile(count).vector, expected.repeat(count, 1))
    hidden = context.drop().vector
    assert hidden is not None and not hidden.any()


def test_gradients_pass() -> None:
    vector = torch.ones(2, 3, requires_grad=True)
    context = Context.from_vector(vector).interleave(3).drop(rows=torch.arange(6) == 0)
    assert context.vector is not None
    (gradient,) = torch.autograd.grad(context.vector.sum(), vector)
    assert gradient[:, 0].tolist() == [2.0, 3.0]


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(PgdiffError, match=r"`present` must have one flag .* 3 rows .* Got \[2\]"):
        Entry(torch.zeros(3, 2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(PgdiffError, match=r"`entries` must have one batch size, or 1. Got .*2"):
        Context({"a": entry(2), "b": entry(2, rows=2)})
    with pytest.raises(PgdiffError, match="`entries`"):
        Context({})
    for shape in ((3,), (3, 1, 3)):
        with pytest.raises(PgdiffError, match=r"`vector` must have shape \[batch, size\]"):
            Context.from_vector(torch.zeros(shape))
