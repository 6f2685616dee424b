"""Every pitfall has a test, and the table says which."""

import pytest

from pitfalls.table import PITFALLS, README, guards, render


@pytest.mark.parametrize("name", PITFALLS)
def test_every_pitfall_has_a_test(name):
    assert guards()[name]


def test_the_table_is_up_to_date():
    assert README.read_text() == render(guards()), "run `python tests/pitfalls/table.py`"
