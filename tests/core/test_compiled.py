"""The compiled forward gives the exact forward's logits, or there is none."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core import compiled
from casemate.core.compiled import MANY, compile_forward, worth_compiling
from casemate.core.target import Classifier, LabelOracle, Prepared, ScoreOracle

SHAPE = (2, 6, 5)


def pictures(n: int) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(n))


def convnet(**settings: object) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(120, 3),
        )
    return Classifier(net, 3, SHAPE, **settings)  # type: ignore[arg-type]


class Net(nn.Module):
    """Linear scores that `answer` turns into an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(60, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x.flatten(1))

    def answer(self, x: Tensor) -> Tensor:
        return self.linear(x)


class AtRandom(Net):
    def answer(self, x: Tensor) -> Tensor:
        return self.linear(x) + 0.01 * torch.rand(len(x), 3)


class Branching(Net):
    def answer(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.mean() > -1 else -self.linear(x)


class OfFixedSize(Net):
    """Averages over the batch; a trace may freeze the batch's size."""

    def answer(self, x: Tensor) -> Tensor:
        return self.linear(x) / len(x)


class NotANumber(Net):
    def answer(self, x: Tensor) -> Tensor:
        return self.linear(x) * float("nan")


def needs_onnxruntime() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")


@pytest.mark.parametrize("settings", [{}, {"mean": (0.4, 0.5), "std": (0.2, 0.3)}, {"bounds": (-1.0, 1.0)}])
@pytest.mark.parametrize("build", compiled.BUILDERS)
def test_each_candidate_agrees_on_every_batch_size(
    build: object, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if build is compiled.BUILDERS[0]:
        needs_onnxruntime()
    monkeypatch.setattr(compiled, "BUILDERS", (build,))
    prepared = Prepared(convnet(**settings))
    fast = compile_forward(prepared, pictures(20))
    assert fast is not None
    for n in (1, 2, 7, 20, 33):
        torch.testing.assert_close(fast(pictures(n)), prepared.exact(pictures(n)), rtol=1e-5, atol=1e-6)


def test_probabilities_are_read_as_the_target_declares() -> None:
    target = convnet()
    softmax = Classifier(nn.Sequential(target.net, nn.Softmax(1)), 3, SHAPE, outputs="probabilities")
    prepared = Prepared(softmax)
    fast = compile_forward(prepared, pictures(9))
    assert fast is not None
    torch.testing.assert_close(fast(pictures(4)), prepared.exact(pictures(4)), rtol=1e-5, atol=1e-6)


def test_inputs_of_other_kinds_go_the_exact_way() -> None:
    prepared = Prepared(
        Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)), 3, SHAPE)
    )
    fast = compile_forward(prepared, pictures(9))
    assert fast is not None
    assert fast(pictures(0)).shape == (0, 3)
    larger = torch.rand(2, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fast(larger), prepared.exact(larger))
    prepared.net.double()
    x = pictures(3).double()
    assert torch.equal(fast(x), prepared.exact(x))


@pytest.mark.parametrize("net", [AtRandom, Branching, OfFixedSize, NotANumber])
def test_nets_that_a_trace_would_misrepresent_are_not_compiled(net: type[Net]) -> None:
    assert compile_forward(Prepared(Classifier(net(), 3, SHAPE)), pictures(9)) is None


def test_only_local_float32_nets_are_compiled() -> None:
    target = convnet()
    assert compile_forward(Prepared(target), pictures(0)) is None
    assert compile_forward(Prepared(target), pictures(4).double()) is None
    remote = Classifier(target.net, 3, SHAPE, differentiable=False)
    assert compile_forward(Prepared(remote), pictures(4)) is None


def test_building_leaves_the_net_and_the_random_numbers_alone() -> None:
    target = convnet()
    prepared = Prepared(target)
    before = [(m.training, [p.clone() for p in m.parameters()]) for m in prepared.net.modules()]
    state = torch.get_rng_state()
    assert compile_forward(prepared, pictures(9)) is not None
    assert torch.equal(torch.get_rng_state(), state)
    for module, (mode, parameters) in zip(prepared.net.modules(), before, strict=True):
        assert module.training == mode
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), parameters, strict=True))
    assert all(m.training for m in target.net.modules())


def test_oracles_answer_by_the_compiled_forward_and_still_count() -> None:
    prepared = Prepared(convnet())
    asked: list[int] = []

    def fast(x: Tensor) -> Tensor:
        asked.append(len(x))
        return prepared.exact(x)

    prepared.fast = fast
    x = pictures(4)
    oracle = ScoreOracle(prepared, 4)
    assert not oracle.logits(x).requires_grad
    LabelOracle(prepared, oracle.ledger).labels(x)
    assert asked == [4, 4]
    assert oracle.ledger.queries.tolist() == [2, 2, 2, 2]


def test_a_form_that_fails_on_other_batch_sizes_is_not_taken(monkeypatch):
    def sized(prepared: Prepared, x: Tensor):
        def forward(given: Tensor) -> Tensor:
            if len(given) != 2:
                raise RuntimeError("cannot be reshaped")
            return prepared.exact(given)

        return forward

    monkeypatch.setattr(compiled, "BUILDERS", (sized,))
    prepared = Prepared(Classifier(nn.Linear(4, 3), 3, (4,)))
    assert compile_forward(prepared, torch.rand(6, 4, generator=torch.Generator().manual_seed(0))) is None


def test_an_exporter_that_fails_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX has no adaptive pooling to sides that do not divide the input's."""
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    x = torch.rand(9, 3, 11, 10, generator=torch.Generator().manual_seed(0))
    compile_forward(Prepared(Classifier(net, 3, (3, 11, 10))), x)
    assert capfd.readouterr().out == ""


def test_a_form_that_loses_rows_of_a_larger_batch_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(prepared: Prepared, x: Tensor):
        return lambda given: prepared.exact(given)[: len(x)]

    def refusing(prepared: Prepared, x: Tensor):
        def forward(given: Tensor) -> Tensor:
            if len(given) > len(x):
                raise RuntimeError("recorded for fewer rows")
            return prepared.exact(given)

        return forward

    x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    for build in (recorded, refusing):
        monkeypatch.setattr(compiled, "BUILDERS", (build,))
        prepared = Prepared(Classifier(nn.Linear(4, 3), 3, (4,)))
        forward = compile_forward(prepared, x[:6])
        assert forward is not None
        assert torch.equal(forward(x), prepared.exact(x))


def test_only_nets_with_convolutions_are_worth_compiling_for_many_rows() -> None:
    assert worth_compiling(nn.Sequential(nn.Conv2d(1, 1, 1)), MANY)
    assert not worth_compiling(nn.Sequential(nn.Conv2d(1, 1, 1)), MANY - 1)
    assert not worth_compiling(nn.Linear(1, 1), MANY)
