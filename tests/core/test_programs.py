"""Rules that keep programs working."""

import itertools

import pytest
import torch
from pydantic import TypeAdapter

from casemate.core.budget import Budget
from casemate.core.errors import UsageError
from casemate.core.programs import (
    Bytes,
    Features,
    comments,
    files,
    lengths,
    rows_of,
    same_program,
    tokens,
    values,
)
from casemate.ops.rng import rows

CHAIN = Features(add=(1, 2, 3, 4), remove=(0,), implies=((1, 2), (2, 3), (0, 5)), changes=3)
SOURCE = b"#!/bin/sh\n# second\nx = 1  # abc\ny = '# no'\n# e\n"


def bits(*rows_):
    return torch.tensor(rows_, dtype=torch.float32)


def broken(x_adv, x, rules):
    """Check a row by the words of the rules, one feature at a time."""
    changed = [i for i in range(len(x)) if x_adv[i] != x[i]]
    if len(changed) > rules.changes:
        return True
    if any(i not in (rules.add if x[i] == 0 else rules.remove) for i in changed):
        return True
    return any(x_adv[a] and not x_adv[b] and not (x[a] and not x[b]) for a, b in rules.implies)


def test_every_candidate_of_six_bits_is_judged_as_by_hand():
    """All 64 x 64 pairs of programs and candidates, against the rules spelt out."""
    every = bits(*itertools.product((0, 1), repeat=6))
    for x in every:
        found = CHAIN.valid(every, x.expand_as(every))
        expected = [not broken(row.tolist(), x.tolist(), CHAIN) for row in every]
        assert found.tolist() == expected


def test_closing_adds_what_is_implied_over_several_steps():
    """1 implies 2, which implies 3; what the program had before brings nothing."""
    x = bits([0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0])
    wished = bits([0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0])
    closed = CHAIN.close(wished, x)
    assert closed.tolist() == bits([0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0]).tolist()
    assert CHAIN.valid(closed, x).all()


def test_a_feature_that_implies_an_unaddable_one_is_not_addable():
    rules = Features(add=(0, 1), implies=((0, 2), (1, 0)), changes=9)
    free, cost = rules.addable(bits([0, 0, 0], [0, 0, 1]), torch.tensor([9, 9]))
    assert free.tolist() == [[False, False, False], [True, True, False]]
    assert cost[1, :2].tolist() == [1, 2]


def test_what_costs_more_than_is_left_is_not_addable():
    """Adding 1 sets 1, 2 and 3: not with two changes left."""
    free, cost = CHAIN.addable(bits([0] * 6), torch.tensor([2]))
    assert cost[0, 1] == 3
    assert free[0].tolist() == [False, False, True, True, True, False]


def test_values_between_zero_and_one_are_no_features():
    assert not CHAIN.valid(bits([0, 0, 0, 0, 0.5, 0]), bits([0] * 6)).any()


def test_random_additions_spend_the_budget_and_keep_the_rules():
    """Of six addable features without implications three are set, whatever the row holds besides."""
    rules = Features(add=tuple(range(6)), changes=3)
    x = torch.zeros(20, 8)
    drawn = rules.draw(x, rows(0, 20))
    assert rules.spent(drawn, x).tolist() == [3] * 20
    assert len({tuple(row.tolist()) for row in drawn}) > 5
    chained = CHAIN.draw(torch.zeros(20, 6), rows(0, 20))
    assert CHAIN.valid(chained, torch.zeros(20, 6)).all()


def test_features_beyond_the_width_are_refused():
    with pytest.raises(UsageError, match=r"0 \.\. 3"):
        CHAIN.valid(torch.zeros(1, 4), torch.zeros(1, 4))


@pytest.mark.parametrize("budget", [CHAIN, Bytes(form="python", edits=3, append=2)])
def test_a_stored_budget_is_read_back_as_itself(budget):
    adapter = TypeAdapter(Budget)
    assert adapter.validate_json(adapter.dump_json(budget)) == budget


def test_files_come_back_from_their_rows():
    contents = [b"", b"\x00\xff", SOURCE]
    x = rows_of(contents, 64)
    assert files(x) == contents
    assert lengths(x).tolist() == [0, 2, len(SOURCE)]
    assert torch.equal(values(tokens(x)), x)


def test_only_the_insides_of_comments_after_the_second_line_are_found():
    assert [SOURCE[a:b] for a, b in comments(SOURCE)] == [b" abc", b" e"]


def test_a_comment_behind_other_letters_is_found_at_its_bytes():
    source = "\n\nx = 'äöü'  # ß!\n".encode()
    assert [source[a:b].decode() for a, b in comments(source)] == [" ß!"]


def test_edits_of_comments_keep_the_program_and_others_do_not():
    budget, x = Bytes(form="python", edits=4), rows_of([SOURCE], 64)
    inside = rows_of([SOURCE.replace(b"abc", b"xyz")], 64)
    outside = rows_of([SOURCE.replace(b"x = 1", b"x = 2")], 64)
    broken_ = rows_of([SOURCE.replace(b"x = 1", b"x = (")], 64)
    for made, kept in ((x, True), (inside, True), (outside, False), (broken_, False)):
        assert budget.valid(made, x).tolist() == [kept]
    assert not Bytes(form="python", edits=2).valid(inside, x).any()


def test_appended_comments_are_counted_and_bounded():
    x = rows_of([SOURCE], 64)
    longer = rows_of([SOURCE + b"\n#ab"], 64)
    assert Bytes(form="python", edits=4, append=4).valid(longer, x).all()
    assert not Bytes(form="python", edits=4, append=3).valid(longer, x).any()
    assert not Bytes(form="python", edits=3, append=4).valid(longer, x).any()
    hole = longer.clone()
    hole[0, len(SOURCE)] = 1.0
    assert not Bytes(form="python", edits=9, append=9).valid(hole, x).any(), "padding within a file"


def test_trailing_bytes_may_be_appended_and_nothing_else():
    x = rows_of([b"PK-end"], 16)
    budget = Bytes(form="trailing", edits=3, append=3)
    assert budget.valid(rows_of([b"PK-end!!!"], 16), x).all()
    assert not budget.valid(rows_of([b"PK-enx"], 16), x).any()


@pytest.mark.parametrize("form", ["python", "trailing"])
def test_random_edits_keep_the_rules(form):
    x = rows_of([SOURCE, b"z = 3\n"], 64)
    budget = Bytes(form=form, edits=12, append=8)
    drawn = budget.draw(x, rows(0, 2))
    assert budget.valid(drawn, x).all()
    assert (drawn != x).any(1).all()


def test_programs_are_compared_by_their_trees():
    assert same_program(b"x=1", b"x = 1 # one")
    assert not same_program(b"x=1", b"x=2")
    assert not same_program(b"x=(", b"x=(")
