"""Every registered method is described, bounded, cited and has a scene."""

import pytest

from casemate import scenes
from casemate.core.registry import Entry, entries, find
from conformance.documentation import CHECKS, Check, shared_names

METHODS = entries()


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.id)
def test_documentation(entry: Entry, check: Check) -> None:
    check(entry)


@pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.id)
def test_every_method_has_a_scene(entry: Entry) -> None:
    scene = scenes.find(entry.id)
    assert scene.title
    assert scene.bar.metric
    assert (scene.bar.at_least is None) != (scene.bar.at_most is None), "a bar has one side"
    if entry.name != "random_noise":
        assert scene.bar.gap > 0, "a method must be told apart from its random baseline"
    entry.validate(scene.params)


def test_no_name_means_two_methods() -> None:
    assert shared_names(METHODS) == []


def test_every_name_in_the_literature_finds_its_method() -> None:
    assert METHODS
    for entry in METHODS:
        for name in (entry.id, entry.name, *entry.known_as):
            assert find(name).id == entry.id
