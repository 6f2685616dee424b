"""Building reports: every format, from whole and from damaged folders."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up import fill, harden, images

from casemate.assess.result import Assessment
from casemate.core.errors import UsageError
from casemate.report import FORMATS, build

SMALL = 1_500_000  # bytes; the promise for a quick preset


def test_each_format_is_written_where_it_says(folder: Path) -> None:
    written = build(folder, list(FORMATS))
    assert [path.name for path in written] == [
        "report.html", "report.md", "report.json", "report.sarif", "report.junit.xml",
    ]  # fmt: skip
    assert all(path.parent == folder and path.stat().st_size > 1000 for path in written)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_building_twice_writes_the_same_bytes(folder: Path) -> None:
    before = {path: path.read_bytes() for path in build(folder, list(FORMATS))}
    assert {path: path.read_bytes() for path in build(folder, list(FORMATS))} == before


def test_the_report_is_small(folder: Path) -> None:
    (path,) = build(folder, ["html"])
    assert path.stat().st_size < SMALL


def test_large_pictures_do_not_make_a_large_report(filled: Callable[..., Path]) -> None:
    (path,) = build(filled(x=images(12, (3, 224, 224))), ["html"])
    assert path.stat().st_size < SMALL


def test_the_report_can_be_read_by_others_as_any_file(folder: Path) -> None:
    (path,) = build(folder, ["md"])
    ordinary = folder / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_an_unknown_format_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"html, md, json, sarif, junit. Got 'pdf'"):
        build(folder, ["html", "pdf"])


def test_a_folder_without_assessment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"without an assessment\.json"):
        build(tmp_path, ["html"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_in_one_line(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        with pytest.raises(UsageError, match=r"report\.md cannot be written"):
            build(folder, ["md"])
    finally:
        folder.chmod(0o700)


def test_a_path_that_is_taken_by_a_folder_is_said_in_one_line(folder: Path) -> None:
    (folder / "report.md").mkdir()
    with pytest.raises(UsageError, match=r"report\.md cannot be written"):
        build(folder, ["md"])


def test_damaged_and_missing_parts_are_named_and_the_rest_is_shown(folder: Path) -> None:
    results = folder / "results"
    (damaged,) = results.glob("evasion-fgsm-*.json")
    (gone,) = results.glob("membership-loss-*.json")
    (blind,) = results.glob("evasion-pgd-*.safetensors")
    damaged.write_text('{"half": ')
    gone.unlink()
    blind.unlink()
    paths = build(folder, list(FORMATS))
    text = paths[1].read_text(encoding="utf-8")
    for words in (f"{damaged.stem}.json is damaged", "its file is missing", f"{blind.name} is missing"):
        assert words.replace("_", r"\_") in text
    html = paths[0].read_text(encoding="utf-8")
    assert "is damaged" in html
    assert f"{blind.name} is missing" in html
    assert "lira" in html


def test_the_json_is_the_view_without_pixels(folder: Path) -> None:
    (path,) = build(folder, ["json"])
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert [answer["outcome"] for answer in raw["answers"]] == ["falls", "falls", "holds"]
    assert "png" not in path.read_text(encoding="utf-8")


def test_a_report_links_to_the_hardened_target(folder: Path) -> None:
    harden(folder)
    (path,) = build(folder, ["html"])
    assert 'href="hardened/report.html"' in path.read_text(encoding="utf-8")


def test_tables_of_numbers_are_reported_as_strips(filled: Callable[..., Path]) -> None:
    (path,) = build(filled(x=images(12).flatten(1)), ["html"])
    assert 'class="triple strips"' in path.read_text(encoding="utf-8")


def test_an_assessment_of_nothing_is_reported(tmp_path: Path) -> None:
    whole = fill(tmp_path)
    bare = Assessment(
        target="t", target_digest="", data="d", data_digest="", rows=0, classes=2, shape=(4,), kind=whole.kind
    )
    (tmp_path / "assessment.json").write_text(bare.model_dump_json())
    for path in build(tmp_path, list(FORMATS)):
        assert path.stat().st_size
