"""A sheet is rendered, warped, relit, blurred and compressed; then it must be found and read again."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from casemate.assess.sheet import PAPERS, Sheet, lay_out, packed, read_sheet, unpacked
from casemate.assess.sheet_source import Pairs, read_pairs
from casemate.builtin.data import fashion_mini, shapes
from casemate.builtin.target import fashion_cnn
from casemate.cli.main import run
from casemate.core.errors import UsageError

cv2 = pytest.importorskip("cv2")
pdfium = pytest.importorskip("pypdfium2")

from casemate.assess.photo_score import score  # noqa: E402
from casemate.assess.photographs import cut, locate, read_photograph  # noqa: E402
from casemate.assess.sheet_pdf import draw  # noqa: E402

PER_MM = 8.0  # pixels per mm of the rendered page


@cache
def clothes(count: int) -> Pairs:
    """Originals that the built-in net reads rightly, beside pictures of other classes in their place."""
    _, test = fashion_mini()
    right = (fashion_cnn().predict(test.x).argmax(1) == test.y).nonzero().flatten()
    order = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))]
    by_class = [order[test.y[order] == k] for k in range(10)]
    rows = torch.cat([r[: -(-count // 10)] for r in by_class])[:count]
    others = torch.cat([by_class[(int(test.y[i]) + 1) % 10][:1] for i in rows])
    return Pairs(test.x[rows], test.x[others], test.y[rows], 10, test.names)


def rendered(path: Path, page: int = 0) -> np.ndarray:
    """Picture (H, W, 3) of a page of a PDF."""
    document = pdfium.PdfDocument(path)
    try:
        return np.array(document[page].render(scale=PER_MM * 25.4 / 72).to_pil().convert("RGB"))
    finally:
        document.close()


def photographed(
    page: np.ndarray, corners: list[tuple[float, float]], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Warp a page so that its corners come to `corners`; light, blur, noise; and the map of pixels."""
    height, width = page.shape[:2]
    square = np.float32(
        [(-0.5, -0.5), (width - 0.5, -0.5), (width - 0.5, height - 0.5), (-0.5, height - 0.5)]
    )
    matrix = cv2.getPerspectiveTransform(square, np.float32(corners))
    photo = cv2.warpPerspective(page, matrix, size, flags=cv2.INTER_AREA, borderValue=(90, 70, 50))
    light = np.linspace(0.65, 1.0, size[0])[None, :, None] * np.array([1.0, 0.97, 0.9])
    noise = np.random.default_rng(0).normal(0, 3, photo.shape)
    dimmed = np.clip(cv2.GaussianBlur(photo, (0, 0), 1.2) * light + 8 + noise, 0, 255)
    return dimmed.astype(np.uint8), matrix


VIEWS = {
    "upright": ([(60, 50), (1150, 40), (1160, 1590), (50, 1600)], (1220, 1660)),
    "tilted": ([(160, 90), (1010, 40), (1180, 1500), (60, 1590)], (1240, 1660)),
    "on its side": ([(1500, 120), (1540, 1160), (60, 1210), (90, 60)], (1600, 1280)),
}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sheet, Path]:
    sheet, path = lay_out(clothes(12)), tmp_path_factory.mktemp("sheet") / "sheet.pdf"
    draw(sheet, path)
    path.with_suffix(".json").write_text(sheet.model_dump_json())
    return sheet, path


def saved(photo: np.ndarray, path: Path, quality: int = 80) -> Path:
    assert cv2.imwrite(str(path), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return path


@pytest.mark.parametrize("view", VIEWS)
def test_pictures_are_located_to_less_than_a_pixel_and_read_as_what_they_are(view, printed, tmp_path):
    """A point at m mm of the page is pixel PER_MM * m - 1/2 of its picture, and the warp is known."""
    sheet, path = printed
    photo, matrix = photographed(rendered(path), *VIEWS[view])
    file = saved(photo, tmp_path / "photo.jpg")
    (page,) = locate(read_photograph(file), sheet)
    assert page.seen == 6
    for crop in sheet.crops:
        x, y = crop.left, crop.top
        places = np.array(
            [(x, y), (x + crop.width, y), (x + crop.width, y + crop.height), (x, y + crop.height)]
        )
        true = cv2.perspectiveTransform((PER_MM * places - 0.5)[None].astype(np.float64), matrix)[0]
        assert np.linalg.norm(page.corners(crop) - true, axis=1).max() < 1.0
    found = score([file], sheet, fashion_cnn())
    assert found.pictures == 24
    assert found.accuracy["clean"].value == 1.0
    # the pictures beside the originals are of another class, and they as well must be read as what they are
    assert found.accuracy["adversarial"].value == 0.0
    agree = [s.digital == s.photographed for s in found.seen]
    assert sum(agree) >= 22
    assert found.destruction_rate.n == 12


def test_a_straight_photograph_gives_the_printed_pictures_back(printed):
    """Without light, blur or warp a crop's values are those of the file, up to the edges of pixels."""
    sheet, path = printed
    page = rendered(path)
    (found,) = locate(page, sheet)
    for crop in sheet.crops[:6]:
        there = cut(page, found, crop, sheet.shape)
        assert np.abs(there - unpacked(crop.png, sheet.shape)).mean() < 0.02


def test_colour_pictures_keep_their_colours(tmp_path):
    _, test = shapes(train=1, test=4)
    sheet = lay_out(Pairs(test.x, 1 - test.x, test.y, 6, test.names), paper="letter")
    draw(sheet, tmp_path / "c.pdf")
    page = rendered(tmp_path / "c.pdf")
    (found,) = locate(page, sheet)
    for crop in sheet.crops:
        assert np.abs(cut(page, found, crop, sheet.shape) - unpacked(crop.png, sheet.shape)).mean() < 0.02


def test_markers_keep_clear_of_pictures_and_pages_on_every_paper():
    for paper, (width, height) in PAPERS.items():
        sheet = lay_out(clothes(30), paper=paper, side=25)
        boxes = [(m.page, m.left, m.top, m.side, m.side) for m in sheet.markers]
        boxes += [(c.page, c.left, c.top, c.width, c.height) for c in sheet.crops]
        for i, (page, x, y, w, h) in enumerate(boxes):
            assert min(x, y) >= 0
            assert x + w <= width
            assert y + h <= height
            for other, u, v, s, t in boxes[:i]:
                apart = page != other or x >= u + s or u >= x + w or y >= v + t or v >= y + h
                assert apart, (paper, boxes[i])


def test_several_pages_have_markers_of_their_own(tmp_path):
    sheet = lay_out(clothes(14))
    draw(sheet, tmp_path / "s.pdf")
    assert sheet.pages == 2
    assert len({m.id for m in sheet.markers}) == 12
    (second,) = locate(rendered(tmp_path / "s.pdf", 1), sheet)
    assert second.page == 1


def test_the_same_pictures_give_the_same_file(tmp_path):
    for name in ("a.pdf", "b.pdf"):
        draw(lay_out(clothes(2)), tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_a_sheet_and_its_pictures_survive_the_file(printed):
    sheet, path = printed
    assert read_sheet(path.with_suffix(".json")) == sheet
    picture = (255 * torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))).round() / 255
    np.testing.assert_allclose(unpacked(packed(picture), (3, 5, 7)), picture.numpy(), atol=1e-7)


def test_a_bent_page_or_another_layout_is_refused(printed):
    """Markers of the right numbers at other places, here fit no plane."""
    sheet, path = printed
    moved = [m.model_copy(update={"left": m.left + 5 * (i % 4)}) for i, m in enumerate(sheet.markers)]
    with pytest.raises(UsageError, match="are not where the sheet has them"):
        locate(rendered(path), sheet.model_copy(update={"markers": tuple(moved)}))


def test_pairs_come_from_folders_of_pictures_as_well(tmp_path):
    from PIL import Image

    for kind, value in (("clean", 10), ("adversarial", 200)):
        for name in ("cat", "dog"):
            (tmp_path / kind / name).mkdir(parents=True)
            Image.new("L", (8, 6), value).save(tmp_path / kind / name / "1.png")
    pairs = read_pairs(tmp_path)
    assert pairs.names == ("cat", "dog")
    assert pairs.x.shape == (2, 1, 6, 8)
    torch.testing.assert_close(pairs.x_adv, torch.full((2, 1, 6, 8), 200 / 255))


def test_the_commands_print_and_score(printed, tmp_path, capsys):
    pairs = clothes(4)
    np.savez(tmp_path / "p.npz", x=pairs.x.numpy(), x_adv=pairs.x_adv.numpy(), y=pairs.y.numpy())
    assert run(["physical", "sheet", str(tmp_path / "p.npz"), "--out", str(tmp_path / "s.pdf")]) == 0
    photo = saved(photographed(rendered(tmp_path / "s.pdf"), *VIEWS["tilted"])[0], tmp_path / "photo.jpg")
    capsys.readouterr()
    assert run(["physical", "score", str(photo), "--sheet", str(tmp_path / "s.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["photos"] == 1
    assert len(found["seen"]) == 8
    assert {"value", "low", "high", "n"} == set(found["destruction_rate"])
    assert run(["physical", "score", str(photo), str(photo), "--sheet", str(tmp_path / "s.json")]) == 0
    table = capsys.readouterr().out
    assert "8 pictures in 2 photographs" in table
    assert "Destruction rate" in table


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with 2 and one line; returns the line."""
    capsys.readouterr()
    assert run(["physical", *map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line != "casemate: loading"]
    assert len(lines) == 1, lines
    return lines[0]


def test_what_cannot_be_scored_is_refused_in_one_line(printed, tmp_path, capsys):
    _, path = printed
    page, told = rendered(path), path.with_suffix(".json")
    empty = saved(np.full((400, 300, 3), 200, np.uint8), tmp_path / "empty.jpg")
    assert "No markers" in refused(capsys, "score", empty, "--sheet", told)
    corner = saved(page[: len(page) // 3, : page.shape[1] // 2], tmp_path / "corner.jpg", 95)
    assert "Only 1 of 6 markers" in refused(capsys, "score", corner, "--sheet", told)
    draw(lay_out(clothes(3)), tmp_path / "other.pdf")
    other = saved(rendered(tmp_path / "other.pdf"), tmp_path / "other.jpg", 95)
    assert "another sheet" in refused(capsys, "score", other, "--sheet", told)
    (tmp_path / "text.jpg").write_text("no picture")
    assert "must be a JPEG" in refused(capsys, "score", tmp_path / "text.jpg", "--sheet", told)
    assert "cannot be read" in refused(capsys, "score", tmp_path / "none.jpg", "--sheet", told)
    assert "must be the .json file" in refused(capsys, "score", empty, "--sheet", tmp_path / "text.jpg")
    assert "cannot be read" in refused(capsys, "score", empty, "--sheet", tmp_path / "none.json")


def test_what_cannot_be_printed_is_refused_in_one_line(tmp_path, capsys):
    out = ("--out", tmp_path / "s.pdf")
    assert "cannot be read" in refused(capsys, "sheet", tmp_path / "none.npz", *out)
    (tmp_path / "bad.npz").write_text("no arrays")
    assert "must be an .npz file" in refused(capsys, "sheet", tmp_path / "bad.npz", *out)
    np.savez(tmp_path / "table.npz", x=np.zeros((2, 7)), x_adv=np.zeros((2, 7)), y=np.zeros(2, int))
    assert "Only pictures" in refused(capsys, "sheet", tmp_path / "table.npz", *out)
    np.savez(tmp_path / "p.npz", x=np.zeros((2, 1, 8, 8)), x_adv=np.zeros((2, 1, 8, 8)), y=np.zeros(2, int))
    assert ".pdf" in refused(capsys, "sheet", tmp_path / "p.npz", "--out", tmp_path / "s.png")
    assert "fit on a4" in refused(capsys, "sheet", tmp_path / "p.npz", "--side", "100", *out)
    assert "cannot be written" in refused(
        capsys, "sheet", tmp_path / "p.npz", "--out", tmp_path / "no" / "s.pdf"
    )
    (tmp_path / "folder").mkdir()
    assert "must hold an assessment" in refused(capsys, "sheet", tmp_path / "folder", *out)


def test_without_opencv_it_is_said_how_to_get_it(printed, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    line = refused(capsys, "score", "photo.jpg", "--sheet", printed[1].with_suffix(".json"))
    assert "pip install 'casemate[physical]'" in line
