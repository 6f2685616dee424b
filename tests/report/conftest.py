"""Folders of made-up results, and the methods they name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up import MADRY, ODD, entry, fill

from casemate.core.data import Samples
from casemate.core.registry import Entry
from casemate.core.target import GradientOracle, LabelOracle, ScoreOracle
from casemate.report import build
from casemate.report.view import Found
from casemate.report.write import gather


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A filled output folder."""
    fill(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a filled folder, written once for the tests that only read it."""
    whole = tmp_path_factory.mktemp("page")
    fill(whole)
    return build(whole, ["html"])[0]


@pytest.fixture
def filled(tmp_path: Path) -> Callable[..., Path]:
    """A maker of filled folders, for tests that need something special in them."""

    def make(name: str = "out", **settings: object) -> Path:
        fill(tmp_path / name, **settings)  # type: ignore[arg-type]
        return tmp_path / name

    return make


@pytest.fixture
def found(folder: Path) -> Found:
    """What the filled folder holds."""
    return gather(folder)


@pytest.fixture
def entries() -> dict[str, Entry]:
    """Methods of the filled folder; `evasion.fmn` is left out, as a plug-in that is gone."""
    made = [
        entry("evasion.fgsm", GradientOracle, (MADRY,), loss="ce"),
        entry("evasion.pgd", GradientOracle, (MADRY,), steps=40, loss="ce"),
        entry("evasion.ddn", GradientOracle, (ODD,), steps=50),
        entry("evasion.square", ScoreOracle, ()),
        entry("evasion.hop_skip_jump", LabelOracle, ()),
        entry("backdoor.badnets", Samples, (), size=3),
        entry("poisoning.label_flip", Samples, ()),
        entry("membership.loss", ScoreOracle, ()),
        entry("membership.lira", ScoreOracle, ()),
    ]
    return {each.id: each for each in made}
