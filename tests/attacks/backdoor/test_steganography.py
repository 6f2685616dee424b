"""A text in the lowest bits: what is written, and what stays."""

import torch

from casemate.attacks.backdoor.steganography import Written


def test_the_lowest_bits_spell_the_text() -> None:
    """'A' is 01000001: in one plane the lowest bits of eight pixels are these, and the others stay."""
    levels = torch.tensor([200, 201, 202, 203, 204, 205, 206, 207])
    marked = (Written("A", 1)((levels / 255).view(1, 1, 2, 4)) * 255).round().long().flatten()
    assert (marked % 2).tolist() == [0, 1, 0, 0, 0, 0, 0, 1]
    assert torch.equal(marked // 2, levels // 2)


def test_four_planes_take_the_higher_half_of_a_byte_first() -> None:
    """'A' is 0100 0001, so two pixels get 4 and 1 in their lowest four bits."""
    marked = (Written("A", 4)(torch.full((1, 1, 1, 2), 240 / 255)) * 255).round().long().flatten()
    assert marked.tolist() == [244, 241]


def test_writing_twice_changes_nothing() -> None:
    x = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    once = Written("text", 3)(x)
    assert torch.equal(Written("text", 3)(once), once)
