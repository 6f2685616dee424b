"""The statistics of a human study on made-up observers whose effect is known."""

import json

import numpy as np
import pytest

from casemate.assess.study import (
    CONDITIONS,
    Answer,
    effect,
    needed,
    permutation_p,
    power,
    read_sessions,
    score,
)  # fmt: skip
from casemate.core.errors import UsageError


def observers(people: int, right: dict[str, float], trials: int = 40, seed: int = 0) -> list[Answer]:
    """People who pick the label (in `false` the target) with the chance given for each condition."""
    rng = np.random.default_rng(seed)
    answers = []
    for person in range(people):
        for condition in CONDITIONS:
            for hit in rng.random(trials) < right[condition]:
                picked = {True: "cat", False: "dog"}[bool(hit)]
                if condition == "false":
                    picked = "dog" if hit else "owl"
                answers.append(
                    Answer(
                        participant=str(person), condition=condition, choice=picked, label="cat", target="dog"
                    )
                )
    return answers


def test_an_effect_of_ten_points_is_found():
    """800 answers a condition: a difference has a deviation below sqrt(2 / 4 / 800) = 0.025; four are 0.1."""
    found = score(observers(20, {"image": 0.9, "adv": 0.75, "flip": 0.9, "false": 0.65}))
    for each, true in zip(found.effects, (0.15, 0.15, 0.15), strict=True):
        assert abs(each.difference.value - true) < 0.1
        assert each.sign_p < 0.01
        assert each.permutation_p < 0.01
        assert each.power > 0.9


def test_without_an_effect_few_studies_find_one():
    """At 5% the number of false finds among 60 studies is binomial: more than 8 has a chance below 0.5%."""
    none = {"image": 0.8, "adv": 0.8, "flip": 0.8, "false": 0.5}
    hits = sum(score(observers(10, none, 12, seed)).effects[0].permutation_p < 0.05 for seed in range(60))
    assert hits <= 8


def test_the_permutation_test_tries_all_signs():
    """All six on one side: 2 of 64 sign patterns reach the observed sum. The sign test agrees."""
    values = np.array([0.1, 0.2, 0.05, 0.3, 0.15, 0.1])
    assert permutation_p(values) == pytest.approx(2 / 64)
    assert effect("x", values).sign_p == pytest.approx(2 / 64)


def test_power_is_that_of_a_textbook_case():
    """Half a deviation, paired, two-sided 5%: 34 participants for 80% (Cohen 1988); none: the level itself."""
    assert needed(0.5) == 34
    assert power(0.0, 20) == pytest.approx(0.05)
    assert needed(0.0) is None


def test_late_answers_count_as_late_and_not_as_wrong():
    late = Answer(participant="a", condition="adv", choice="", label="cat", target="dog")
    given = late.model_copy(update={"choice": "cat"})
    found = score([late, given])
    assert (found.late, found.shares["right, adv"].value, found.shares["right, adv"].n) == (1, 1.0, 1)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"study": "other", "answers": []}', '{"study": 1}'])
def test_a_file_that_is_none_of_ours_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match="not the JSON file"):
        read_sessions([tmp_path / "a.json"])


def test_a_participant_is_read_once(tmp_path):
    said = {
        "study": "casemate human study",
        "answers": [observers(1, dict.fromkeys(CONDITIONS, 1.0), 1)[0].model_dump()],
    }
    for name in "ab":
        (tmp_path / name).write_text(json.dumps(said))
    with pytest.raises(UsageError, match="read before"):
        read_sessions([tmp_path / "a", tmp_path / "b"])
