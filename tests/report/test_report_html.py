"""The page is one file, asks nobody for anything, is well formed and lets nothing in."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from casemate.report import build

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $x^2$ {{ 7 * 7 }} `|` \x0b"
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


class Page(HTMLParser):
    """Tags with attributes, and faults of nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def all(self, *tags: str) -> Iterator[dict[str, str]]:
        return (attributes for tag, attributes in self.tags if tag in tags)


@pytest.fixture(scope="module")
def text(page_path: Path) -> str:
    return page_path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_is_well_formed(page: Page) -> None:
    assert not page.faults
    assert not page.open


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    """Links to papers are followed by people only; everything that loads by itself is inside."""
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attributes.get(name, "")
            if tag == "a":
                assert re.match(r"#|https?://|hardened/report\.html$", value) or not value
            else:
                assert not value or value.startswith(("data:", "#"))
    assert "url(http" not in "".join(v for _, a in page.tags for v in a.values())


def test_every_picture_says_what_it_shows(page: Page) -> None:
    pictures = list(page.all("img"))
    assert pictures
    assert all(picture["alt"] and picture["width"] and picture["height"] for picture in pictures)
    charts = [a for a in page.all("div") if a.get("role") == "img"]
    assert charts
    assert all(chart["aria-label"].startswith("Line chart. ") for chart in charts)


def test_inputs_whose_label_alone_was_changed_are_shown_once(text: str) -> None:
    flips = text[text.index("their labels were changed") :]
    flips = flips[: flips.index("</ul>")]
    assert flips.count("<img") == flips.count("<li>") == 4


def test_names_in_the_page_are_unique_and_every_link_inside_it_arrives(page: Page) -> None:
    names = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(names)) == len(names)
    links = {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")}
    assert links <= set(names)


def test_headings_do_not_skip_a_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_table_has_a_caption_and_its_cells_keep_their_roles(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") > 3
    assert all(a.get("role") for a in page.all("table", "thead", "tbody", "tr", "td", "th"))


def test_outcomes_are_told_by_word_and_symbol_not_by_colour_alone(text: str) -> None:
    for symbol, word in (("✗", "falls"), ("?", "inconclusive"), ("○", "not tested"), ("✓", "holds")):
        assert re.search(rf'<span aria-hidden="true">{re.escape(symbol)}</span> {word}</span>', text)


def test_failed_and_skipped_cases_stand_above_what_holds(text: str) -> None:
    table = text[text.index("<tbody") : text.index("How to read the scales")]
    assert table.index("falls") < table.index("out of memory") < table.index("Who was in the training data")


def test_text_from_outside_cannot_become_markup(filled: Callable[..., Path]) -> None:
    path = filled(hostile=HOSTILE, names=tuple(f"{HOSTILE} {i}" for i in range(10)))
    text = build(path, ["html"])[0].read_text(encoding="utf-8")
    page = Page(text)
    assert not page.faults
    assert len(list(page.all("script"))) == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert not [a for a in page.all("img") if not a["src"].startswith("data:")]
    assert "&lt;script&gt;alert(1)" in text
    assert "{{ 7 * 7 }}" in text


def test_only_the_pages_own_script_may_run(text: str) -> None:
    policy = next(
        a["content"] for a in Page(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)


def test_an_address_that_is_no_web_address_is_not_linked(folder: Path, entries: dict[str, object]) -> None:
    from casemate.report.html import html
    from casemate.report.view import view
    from casemate.report.write import gather

    text = html(view(gather(folder), entries))  # type: ignore[arg-type]
    assert "javascript:alert(1)" in text
    assert not [a for a in Page(text).all("a") if a["href"].startswith("javascript")]


def test_there_is_no_overall_score(text: str) -> None:
    text = text.lower()
    assert "overall" not in text
    assert "out of 100" not in text
