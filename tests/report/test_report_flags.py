"""Every flag that casemate can raise is explained."""

import re
from pathlib import Path

import casemate
from casemate.report.flags import FLAGS, explain

SOURCE = Path(casemate.__file__).parent


def test_every_flag_in_the_source_has_an_explanation() -> None:
    raised = {
        code
        for path in SOURCE.rglob("*.py")
        for code in re.findall(r'Flag\(\s*(?:code=)?"([a-z0-9-]+)"', path.read_text(encoding="utf-8"))
    }
    assert raised
    assert raised <= set(FLAGS), sorted(raised - set(FLAGS))


def test_an_explanation_says_what_it_means_and_what_to_do() -> None:
    for title, meaning, action in FLAGS.values():
        assert not title.endswith(".")
        assert meaning.endswith(".")
        assert action.endswith(".")


def test_an_unknown_code_is_explained_by_its_name() -> None:
    assert explain("never-seen").title == "Never seen"
