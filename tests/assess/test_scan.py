"""Scanning a model of one's own: what is refused, what is said, and a backdoor found and mended."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from casemate.assess import evidence
from casemate.assess import mend as mending_module
from casemate.assess.calibration import UNEVEN, Calibration, Rate, shipped, unevenness
from casemate.assess.evidence import DETECTORS, INVERSION
from casemate.assess.mend import Effect, best, is_scan, mend
from casemate.assess.progress import Silent
from casemate.assess.scan import CLASSES, ENOUGH, Scanned, scan
from casemate.builtin.data import digits
from casemate.builtin.nets import small_cnn
from casemate.cli.main import run
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import UsageError
from casemate.core.registry import find
from casemate.core.triggers import Patch
from casemate.ops.rng import generator
from casemate.ops.stats import exact_share
from casemate.report import scan_words, scanning
from casemate.scenes.backdoors import digit_recipe

SHAPE = (1, 12, 10)


def pictures(n: int, classes: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Samples:
    """Noisy copies of one prototype per class."""
    prototypes = torch.rand(classes, *shape, generator=generator(50))
    y = torch.arange(n) % classes
    x = prototypes[y] + 0.15 * torch.randn(n, *shape, generator=generator(seed))
    return Samples(x.clamp(0, 1), y, classes)


class Nearest(nn.Module):
    """The class whose prototype correlates most."""

    def __init__(self, classes: int, shape: tuple[int, ...] = SHAPE) -> None:
        super().__init__()
        prototypes = torch.rand(classes, *shape, generator=generator(50)).flatten(1)
        self.inner = nn.Linear(prototypes.shape[1], classes)
        self.head = nn.Linear(classes, classes)
        self.inner.weight.data, self.inner.bias.data = prototypes, -prototypes.square().sum(1) / 2
        self.head.weight.data, self.head.bias.data = 3 * torch.eye(classes), torch.zeros(classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(x.flatten(1)))
        return out


class Odd(nn.Module):
    """An architecture that nobody foresaw: no Sequential, shared layers, names of its own."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.eye = nn.Conv2d(1, 5, (5, 3), stride=3)
        self.thought = nn.Conv2d(5, 5, 3, padding=1)
        self.word = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.eye(x))
        h = h + torch.relu(self.thought(h)) + torch.relu(self.thought(h.flip(-1)))
        out: Tensor = self.word(h.amax((2, 3)))
        return out


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every detector take few steps: what is said then is nothing to go by, but it is said."""

    class Hasty:
        def __init__(self, name: str) -> None:
            self.run = partial(find(name).run, steps=10, batch=4)

    monkeypatch.setattr(evidence, "find", Hasty)


def scanned(classes: int, n: int = 240) -> Scanned:
    return scan(Nearest(classes), pictures(n, classes))


def test_R6_a_net_of_any_form_on_grey_pictures_of_any_size_is_scanned(hasty, tmp_path: Path) -> None:
    """Seven classes, 40 by 56 pixels: no detector may be bound to a data set or an architecture."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Odd()
    found = scan(net, pictures(70, 7, (1, 40, 56)))
    assert found.scores.shape == (7,)
    assert found.scores.isfinite().all()
    assert set(found.found.traces) == set(DETECTORS)
    page = scanning.written(found, tmp_path)[0].read_text()
    assert page.count("data:image/png") == 4 * (1 + 2 * scanning.EXAMPLES)
    assert "http" not in page.replace("http-equiv", "")


class Viewing(nn.Module):
    """A net that views the channels of its pictures as one row, which channels-last order does not allow."""

    def __init__(self, channels: int, classes: int = 6) -> None:
        super().__init__()
        self.eye, self.word = nn.Conv2d(channels, 4, 3), nn.Linear(4 * 10 * 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.word(torch.relu(self.eye(x)).view(len(x), -1))
        return out


@pytest.mark.parametrize("channels", [1, 3])
def test_a_net_that_views_channels_as_one_row_is_scanned(hasty, channels: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Viewing(channels)
    found = scan(net, pictures(60, 6, (channels, 12, 10)))
    assert set(found.found.traces) == set(DETECTORS)
    assert found.found.left_out == {}


def test_R7_the_rate_of_false_alarms_on_twenty_clean_models_or_more_stands_beside_every_answer(
    hasty, tmp_path: Path
) -> None:
    found = scanned(6)
    how = shipped()
    assert how.false_alarms.n >= 20
    assert how.found["all"].n >= 20
    alarms = f"{100 * found.calibration.false_alarms.value:.1f}%"
    page = scanning.written(found, tmp_path)[0].read_text()
    assert alarms in scan_words.rates(found)
    assert alarms in page
    said = json.loads((tmp_path / "scan.json").read_text())
    assert said["measured"]["false_alarms"]["n"] == found.calibration.false_alarms.n


@pytest.mark.parametrize(
    ("why", "shift", "means", "do"),
    [
        ("", 20.0, "are called so too", "casemate harden"),
        ("", -20.0, "That is no proof", "as far as you trust"),
        ("too few pictures", 0.0, "neither cleared nor accused", "scan again"),
    ],
    ids=["backdoored", "no sign", "inconclusive"],
)
def test_a_page_leads_with_the_answer_what_it_means_and_what_to_do(
    hasty, tmp_path, why, shift, means, do
) -> None:
    """The rates of right and wrong answers come after, folded; in a terminal they come last."""
    found = scanned(6)
    found = replace(found, why=why, scores=found.scores + shift)
    page = scanning.written(found, tmp_path)[0].read_text()
    order = [page.index(text) for text in ("<h1>", "What it means", means, "What to do", do, "<details>")]
    assert order == sorted(order)
    assert page.index("Measured on small models") > page.index("<details>")


@pytest.mark.parametrize(
    ("why", "shift", "means", "do"),
    [
        ("", 20.0, "did not end it", "Train anew"),
        ("", -20.0, "was not measured on mended models", "what the repair left"),
        ("too few pictures", 0.0, "repaired model is neither cleared", "repair it again"),
    ],
    ids=["backdoored", "no sign", "inconclusive"],
)
def test_the_page_of_a_repaired_model_speaks_of_it_and_gives_no_rates(hasty, why, shift, means, do) -> None:
    """Rates of right and wrong answers were measured on models as they were trained."""
    found = scanned(6)
    found = replace(found, why=why, scores=found.scores + shift)
    page = scanning.html(found, (("Repair",), [["none"]], ["A sentence."]))
    assert means in page
    assert do in page
    assert "Measured on small models" not in page
    assert "95%" not in scan_words.meaning(found, repaired=True)
    assert "casemate harden" not in page


def test_only_triggers_that_steer_are_said_to_call_up_a_class(hasty) -> None:
    """One detector's trigger steers 90% of the pictures and is named; at 10% none is, and nobody is sent to look."""
    found = scanned(6)
    found = replace(found, why="", scores=found.scores + 20)

    def steers(share: float) -> Scanned:
        traces = {
            name: replace(t, success=torch.full((6,), share if name == "scanning.warp_inversion" else 0.1))
            for name, t in found.found.traces.items()
        }
        return replace(found, found=replace(found.found, traces=traces))

    strong, weak = steers(0.9), steers(0.1)
    assert "that of least warp below, are likely" in scan_words.meaning(strong, repaired=False)
    assert "a trigger calls up" in scan_words.answer(strong)
    for repaired in (False, True):
        assert "what calls it up is not known" in scan_words.meaning(weak, repaired=repaired)
    assert "calls up" not in scan_words.answer(weak)
    assert "Look at" not in scan_words.action(weak, repaired=False)


def test_the_score_is_the_weighted_sum_of_evidence_beyond_what_is_usual() -> None:
    """Of 9 - 1 the ceiling 6 counts, of 2 - 0 all, of 1 - 3 nothing.

    The median is 2, the deviations from it are 7, 0 and 1, of median 1: a spread of 1.4826, which at a firm
    one of 0.3 leaves f = 1 / sqrt(1 + (1.4826 / 0.3)^2) of each. So -2 + 1.5 * f * (6, 2, 0).
    """
    rate = Rate(value=0, low=0, high=1, n=1)
    how = Calibration(made="", weights={"a": 1.5, "gone": 7.0}, bias=-2.0, threshold=0.0, weak_from=0.0, auc=rate,
                      auc_unseen=rate, false_alarms=rate, found={}, unseen={}, false_alarms_other_data=rate, other_data=rate,
                      unanswered={}, weak={})  # fmt: skip
    firm = 1 / math.sqrt(1 + (1.4826 / 0.3) ** 2)
    found, usual = {"a": torch.tensor([9.0, 2.0, 1.0])}, {"a": torch.tensor([1.0, -1.0, 3.0])}
    torch.testing.assert_close(
        how.scores(found, usual), -2 + 1.5 * firm * torch.tensor([6.0, 2.0, 0.0]).double()
    )
    assert how.shares(found, usual, 0)["a"] == pytest.approx(9 * firm)


def test_the_score_asks_only_for_what_any_net_with_gradients_allows() -> None:
    """Of a net converted from ONNX no layer can be stimulated and no weight be read."""
    assert set(shipped().weights) == set(INVERSION)


def test_too_few_classes_or_pictures_give_no_answer(hasty) -> None:
    few = scanned(CLASSES - 1)
    assert few.outcome == "inconclusive"
    assert f"{CLASSES - 1} classes" in few.why
    assert f"{ENOUGH - 1} clean pictures are too few" in scanned(6, ENOUGH - 1).why
    wrong = pictures(240, 6)
    wrong = Samples(wrong.x, (wrong.y + 1) % 6, 6)
    assert "normalisation" in scan(Nearest(6), wrong).why


def test_unevenness_is_the_deviation_of_all_classes_but_the_most_suspicious() -> None:
    """Of (9, 1, 0, -1) the deviation of 1, 0 and -1 is 1, of (0, 0, 0) it is 0: on average 1/2. No others count."""
    found = {
        "scanning.neural_cleanse": torch.tensor([9.0, 1.0, 0.0, -1.0]),
        "scanning.least_perturbation": torch.tensor([0.0, 0.0, 0.0, 4.0]),
        "scanning.warp_inversion": torch.tensor([5.0, 0.0, -5.0, 0.0]),
    }
    assert unevenness(found) == pytest.approx(0.5)
    assert unevenness({}) == 0


def test_classes_that_differ_too_much_anyway_give_no_answer(hasty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casemate.assess.scan.unevenness", lambda found: UNEVEN)
    assert scanned(6).why == ""
    monkeypatch.setattr("casemate.assess.scan.unevenness", lambda found: math.log(2.0))
    found = scanned(6)
    assert found.outcome == "inconclusive"
    assert "2.0 times as large" in found.why


@pytest.mark.parametrize(
    ("x", "y", "net", "message"),
    [
        ((40, 5), 4, None, "needs pictures"),
        ((40, *SHAPE), 1, None, "of two classes or more"),
        ((19, *SHAPE), 4, None, "at least 20 clean pictures"),
        ((40, *SHAPE), 5, None, "must know every label"),
        ((40, 2, 12, 10), 4, None, "failed on a batch of shape"),
        ((40, *SHAPE), 4, "softmax", "must return logits"),
    ],
    ids=["table", "one class", "few", "more labels than logits", "another shape", "probabilities"],
)
def test_what_cannot_be_scanned_is_one_line(
    x: tuple[int, ...], y: int, net: str | None, message: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=draw.random(x, np.float32), y=np.arange(x[0]) % y)
    body = "Nearest(4)" if net is None else "torch.nn.Sequential(Nearest(4), torch.nn.Softmax(1))"
    (tmp_path / "own.py").write_text(
        f"import torch\nfrom test_scan import Nearest\n\ndef build():\n    return {body}\n"
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, data = f"{tmp_path / 'own.py'}:build", f"npz:{tmp_path / 'own.npz'}"
    code = run(["scan", model, "--data", data, "--out", str(tmp_path / "out")])
    said = [line for line in capsys.readouterr().err.splitlines() if "loading" not in line]
    assert code == 2
    assert len(said) == 1
    assert message in said[0]


def own(path: Path, *, poison: bool) -> list[str]:
    """Write a net that reads digits, with or without a patch backdoor, and clean digits; tells the options."""
    train, test = digits()
    badnets = find("backdoor.badnets")
    params = badnets.validate({"target": 3, "patch": 2})
    data = badnets.run(train, PoisonBudget(0.1), rng=generator(4), **params).apply(train) if poison else train
    net = digit_recipe()(data, rng=generator(5)).net
    save_file(net.state_dict(), path / "own.safetensors")
    (path / "own.py").write_text(
        "from casemate.builtin.nets import small_cnn\n\ndef build():\n    return small_cnn((1, 8, 8), 10)\n"
    )
    np.savez(path / "clean.npz", x=test.x.numpy(), y=test.y.numpy())
    return [f"{path / 'own.py'}:build+{path / 'own.safetensors'}", "--data", f"npz:{path / 'clean.npz'}"]


@pytest.mark.slow
def test_a_backdoor_is_found_by_the_command_and_mended_by_harden(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted patch, which neither command knows, has lost most of its success afterwards.

    A first run is stopped before its last repair; the second makes only what prunes again.
    """
    out = tmp_path / "out"
    code = run(["scan", *own(tmp_path, poison=True), "--json", "--out", str(out)])
    said = json.loads(capsys.readouterr().out)
    assert code == 1
    assert (said["outcome"], said["suspect"]) == ("backdoored", 3)
    assert said == json.loads((out / "scan.json").read_text())
    assert is_scan(out)

    class Stopped(Silent):
        def start(self, key: str, title: str) -> None:
            if key == "unlearning":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mend(out=out, progress=Stopped())
    made: list[str] = []
    registered = mending_module._registered
    monkeypatch.setattr(
        mending_module,
        "_registered",
        lambda entry, *a, **kw: made.append(entry.id) or registered(entry, *a, **kw),
    )
    mended = mend(out=out)
    assert made == ["repair.fine_pruning"]
    _, test = digits()
    before = small_cnn((1, 8, 8), 10)
    from safetensors.torch import load_file

    before.load_state_dict(load_file(tmp_path / "own.safetensors"))
    marked = Patch(2, 1)(test.x[test.y != 3])
    steered = [
        float((net.eval()(marked).argmax(1) == 3).double().mean()) for net in (before, mended.model.net)
    ]
    assert steered[1] < steered[0] - 0.4
    none, chosen = mended.effects["none"], mended.effects[mended.chosen]
    assert chosen.success.value < none.success.value - 0.4
    assert chosen.accuracy.value > none.accuracy.value - 0.05
    assert mended.again.score < said["score"]
    assert mended.again.digests["data"] == said["digests"]["data"]
    assert mended.again.digests["model"] != said["digests"]["model"]
    own(tmp_path, poison=False)
    assert run(["harden", str(out)]) == 2
    assert "It has changed since: scan it again" in capsys.readouterr().err


@pytest.mark.slow
def test_a_clean_model_shows_no_sign_and_has_nothing_to_mend(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(["scan", *own(tmp_path, poison=False), "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no sign of a backdoor" in said
    assert "[pixels]" in said, "units are no markup of the terminal's"
    assert run(["harden", str(out)]) == 2
    assert "There must be a backdoor to mend" in capsys.readouterr().err


def test_the_repair_that_leaves_least_is_chosen_among_the_cheap_ones() -> None:
    def effect(right: int, steered: int) -> Effect:
        return Effect(exact_share(right, 100), exact_share(steered, 100))

    effects = {"none": effect(90, 99), "a": effect(88, 20), "b": effect(70, 1), "c": effect(86, 10)}
    assert best(effects) == "c"
    assert best({"none": effect(90, 99), "b": effect(70, 1), "d": effect(75, 60)}) == "d"


def test_folders_without_a_scan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be the folder of a finished scan"):
        mend(out=tmp_path)
    assert not is_scan(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"outcome": "backdoored", "options": {}}'])
def test_damaged_scans_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(text)
    with pytest.raises(UsageError, match=r"Its scan\.json cannot be read"):
        mend(out=tmp_path)


def test_scans_of_a_suspect_that_is_no_class_and_of_mended_models_are_refused(tmp_path: Path) -> None:
    """Of seven classes the last is 6; with it the file is read, and its model is missed next."""
    options = {
        "model": None,
        "data": None,
        "bounds": [0, 1],
        "mean": [],
        "std": [],
        "device": "cpu",
        "seed": 0,
    }
    detector = {"success": [0.0] * 7, "evidence_in_references": []}
    for suspect, says in ((7, r"Its scan\.json cannot be read"), (6, "in memory cannot be repeated")):
        said = {
            "outcome": "backdoored", "options": options, "suspect": suspect, "model": "m", "data": "d", "digests": {},
            "detectors": {"a": detector}, "weights_in_references": {},
        }  # fmt: skip
        (tmp_path / "scan.json").write_text(json.dumps(said))
        with pytest.raises(UsageError, match=says):
            mend(out=tmp_path)
    again = {**options, "model": "m", "data": "d", "mended_by": "repair.i_bau"}
    (tmp_path / "scan.json").write_text(json.dumps({**said, "options": again}))
    with pytest.raises(UsageError, match="mended already"):
        mend(out=tmp_path)
