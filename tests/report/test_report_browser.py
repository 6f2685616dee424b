"""The page in a real browser: phone, desk, dark, paper."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from casemate.report import build

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        chromium.close()


class Visit:
    """A page, with what it said on the console and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.path = path

    def open_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.fixture
def path(page_path: Path) -> Path:
    return page_path


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, path: Path, width: int) -> None:
    visit = Visit(browser, path, width)
    visit.open_all()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = visit.page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('svg, thead') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_silent_and_asks_nobody(browser: Any, path: Path, scheme: str) -> None:
    visit = Visit(browser, path, 1280, scheme)
    visit.open_all()
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [path.as_uri()]


def test_dark_readers_get_a_dark_page(browser: Any, path: Path) -> None:
    grounds = [
        Visit(browser, path, 800, scheme).page.evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert grounds == ["rgb(255, 255, 255)", "rgb(19, 22, 27)"]


def test_text_in_charts_takes_the_pages_colour(browser: Any, path: Path) -> None:
    visit = Visit(browser, path, 800, "dark")
    colour = visit.page.evaluate(
        "getComputedStyle([...document.querySelectorAll('.chart svg text')].pop()).fill"
    )
    assert colour in ("rgb(233, 235, 239)", "rgb(169, 176, 187)")


def test_all_details_are_open_on_paper_and_closed_again_after(browser: Any, path: Path) -> None:
    page = Visit(browser, path, 800).page
    closed = page.locator("details:not([open])")
    before = closed.count()
    assert before > 5
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert closed.count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert closed.count() == before


def test_paper_is_light_even_for_dark_readers(browser: Any, path: Path) -> None:
    page = Visit(browser, path, 800, "dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_link_to_a_closed_case_opens_it(browser: Any, path: Path) -> None:
    page = Visit(browser, path, 800).page
    page.locator(".verdicts a[href^='#case-']").first.click()
    assert page.locator("details.case[open]").count() == 1


def test_the_button_opens_and_closes_all_cases(browser: Any, path: Path) -> None:
    page = Visit(browser, path, 800).page
    button = page.locator("[data-toggle]")
    button.click()
    assert page.locator("details.case:not([open])").count() == 0
    assert button.inner_text() == "Close all"
    button.click()
    assert page.locator("details.case[open]").count() == 0


def test_hostile_text_runs_nowhere(browser: Any, filled: Any) -> None:
    hostile = "<script>console.log('in')</script><img src=x onerror=\"console.log('in')\">"
    visit = Visit(browser, build(filled(hostile=hostile, names=(hostile,) * 10), ["html"])[0], 800)
    visit.open_all()
    assert visit.said == []


def test_pictures_are_scaled_without_blur(browser: Any, path: Path) -> None:
    page = Visit(browser, path, 800).page
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.triple img')).imageRendering") == "pixelated"
    )


def test_the_focus_can_be_seen(browser: Any, path: Path) -> None:
    page = Visit(browser, path, 800).page
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
