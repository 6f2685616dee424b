"""Random streams by row: reproducible, independent of neighbours, private."""

import pytest
import torch
from scipy import stats

from casemate.ops.rng import RowGenerator, batches, generator, rows, seed_of

DRAWS = pytest.mark.parametrize(
    "draw",
    [lambda r: r.uniform(3), lambda r: r.normal(3), lambda r: r.integers(7, 3), lambda r: r.sign(3)],
    ids=["uniform", "normal", "integers", "sign"],
)


def test_a_seed_is_the_same_on_every_machine():
    """First 8 bytes of sha256("0/pgd/3"), halved: computed once with Python's hashlib."""
    import hashlib

    digest = hashlib.sha256(b"0/pgd/3").hexdigest()
    assert seed_of(0, "pgd", 3) == int(digest[:16], 16) >> 1
    assert 0 <= seed_of(0, "pgd", 3) < 2**63


def test_other_names_give_other_seeds():
    paths = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", 2)]
    assert len({seed_of(*path) for path in paths}) == len(paths)


def test_equal_paths_give_equal_streams():
    a, b = generator(3, "x"), generator(3, "x")
    assert torch.equal(torch.rand(4, generator=a), torch.rand(4, generator=b))


@DRAWS
def test_S2_a_rows_numbers_do_not_depend_on_its_neighbours(draw):
    together = draw(rows(0, 5))
    alone = torch.cat([draw(rows(0, [i])) for i in range(5)])
    backwards = draw(rows(0, [4, 3, 2, 1, 0]))
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards.flip(0))


@DRAWS
def test_S2_rows_that_leave_do_not_shift_the_others(draw):
    """Rows 1 and 3 draw twice more; rows 0 and 2 take part in the second draw only."""
    some, all_ = rows(0, 4), rows(0, 4)
    draw(some)
    stays = some[torch.tensor([False, True, False, True])]
    draw(stays)
    draw(all_)
    draw(all_)
    assert torch.equal(draw(stays), draw(all_)[[1, 3]])


def test_a_view_advances_its_own_rows_only():
    streams, fresh = rows(0, 3), rows(0, 3)
    streams[torch.tensor([1])].uniform(2)
    assert torch.equal(streams[:1].uniform(2), fresh[:1].uniform(2))
    assert not torch.equal(streams[1:2].uniform(2), fresh[1:2].uniform(2))


def test_rows_can_be_chosen_by_slice_mask_or_number():
    expected = rows(0, [1, 2]).uniform(2)
    chosen = (slice(1, 3), torch.tensor([False, True, True, False]), torch.tensor([1, 2]))
    for choice in chosen:
        part = rows(0, 4)[choice]
        assert len(part) == 2
        assert torch.equal(part.uniform(2), expected)


@DRAWS
def test_the_global_generator_is_left_alone(draw):
    before = torch.get_rng_state()
    draw(rows(0, 3))
    assert torch.equal(torch.get_rng_state(), before)


@DRAWS
def test_no_rows_draw_nothing(draw):
    assert draw(RowGenerator([])).shape == (0, 3)


def test_rows_of_one_seed_look_independent():
    """First uniform number of 2,000 neighbouring streams: Kolmogorov-Smirnov and lag-1 correlation.

    The correlation of 2,000 independent pairs deviates by 1 / sqrt(2000) = 0.022; four of these.
    """
    first = rows(0, 2000).uniform(1).flatten().double()
    assert stats.kstest(first.numpy(), "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(first[:-1], first[1:]).statistic) < 4 * 0.0224


def test_signs_and_integers_take_all_their_values():
    assert set(rows(0, 50).sign(4).flatten().tolist()) == {-1.0, 1.0}
    assert set(rows(0, 50).integers(3, 4).flatten().tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (10, 5), (7, 7), (5, 64), (1, 1)])
def test_batches_are_whole_and_every_shuffle_uses_a_row_at_most_once(n, batch):
    """A shuffle of 10 rows has three batches of 3 and leaves a row out; a batch larger than the data is all of it."""
    size = min(batch, n)
    found = batches(n, batch, 12, generator(0, "batches"))
    assert [len(part) for part in found] == [size] * 12
    for first in range(0, 12, n // size):
        shuffled = torch.cat(found[first : first + n // size]).tolist()
        assert len(set(shuffled)) == len(shuffled)
        assert set(shuffled) <= set(range(n))


def test_batches_use_all_rows_equally_often():
    """Of 4,000 shuffles of 7 rows in batches of 3 each row is left out of a seventh: 571 with deviation 22."""
    used = torch.cat(batches(7, 3, 8000, generator(0, "uses"))).bincount(minlength=7)
    assert int(used.sum()) == 24_000
    assert ((4000 - used).sub(4000 / 7).abs() < 4.5 * (4000 * 6 / 49) ** 0.5).all()


def test_batches_follow_their_generator_and_need_rows():
    first, again = (batches(9, 4, 5, generator(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert batches(0, 4, 5, generator(3)) == []
    assert batches(9, 4, 0, generator(3)) == []


@pytest.mark.parametrize("shape", [(4,), (3, 7)], ids=str)
def test_a_rows_numbers_are_those_of_its_generator(shape):
    for i in range(3):
        assert torch.equal(rows(5, 3).uniform(*shape)[i], torch.rand(shape, generator=generator(5, i)))
        assert torch.equal(rows(5, 3).normal(*shape)[i], torch.randn(shape, generator=generator(5, i)))
