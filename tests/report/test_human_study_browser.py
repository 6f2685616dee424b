"""A short study in a real browser, from the first click to the saved files."""

import csv
import json
import shutil

import pytest
import torch

from casemate.assess.stimuli import Stimulus
from casemate.assess.study import read_sessions, score
from casemate.report.human_study import write_page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found")]
HOSTILE = "</script><script>console.log('in')</script>"


def made_up(count: int) -> list[Stimulus]:
    names = ("cat", "dog", HOSTILE)
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return [Stimulus(p, (p + 0.1).clamp(0, 1), names[i % 3], names[(i + 1) % 3]) for i, p in enumerate(x)]


def test_a_study_from_consent_to_score(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    path = write_page(made_up(8), tmp_path, exposure=66.7, limit=2200, seed=0)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_context(viewport={"width": 360, "height": 640}, accept_downloads=True).new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("#start").is_disabled(), "nobody begins without consent"
        page.fill("#participant", "p1")
        page.check("#consent")
        page.click("#start")
        for trial in range(8):
            page.wait_for_selector("#choices.on", timeout=20_000)
            if trial == 0:
                page.click("#left")
            elif trial != 1:  # the second is left to the time limit
                page.keyboard.press("f")
            page.wait_for_selector("#choices:not(.on)", state="attached", timeout=20_000)
        page.wait_for_selector("#thanks:not([hidden])", timeout=20_000)
        for kind in ("json", "csv"):
            with page.expect_download() as download:
                page.click(f"#{kind}")
            download.value.save_as(tmp_path / f"p1.{kind}")
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    kept = json.loads((tmp_path / "p1.json").read_text())
    answers = kept["answers"]
    assert sorted(a["condition"] for a in answers) == sorted(["image", "adv", "flip", "false"] * 2)
    assert kept["frames"] == max(1, round(66.7 / kept["refresh_ms"]))
    for a in answers:
        assert len(a["stamps_ms"]) == kept["frames"] + 1
        # as many refreshes as were asked for; a busy machine may show some late, never early
        assert a["exposure_ms"] >= (kept["frames"] - 1) * kept["refresh_ms"] * 0.9
        assert a["exposure_ms"] == pytest.approx(a["stamps_ms"][-1])
        assert {a["left"], a["right"]} >= {a["target"]}
    assert [a["choice"] for a in answers].count("") == 1
    assert sum(a["reaction_ms"] is None for a in answers) == 1
    assert len(list(csv.reader((tmp_path / "p1.csv").read_text().splitlines()))) == 9
    found = score(read_sessions([tmp_path / "p1.json"]))
    assert (found.participants, found.trials, found.late) == (1, 8, 1)
