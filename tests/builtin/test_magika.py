"""Magika as a torch net, against the runtime and the client that its makers ship."""

import pytest
import torch

from casemate.attacks.malware.bytes import bytes as attack
from casemate.builtin import magika
from casemate.core.data import Practice
from casemate.core.programs import PAD, Bytes, files, rows_of, tokens
from casemate.core.target import GradientOracle
from casemate.core.threat import Misclassify
from casemate.ops.rng import generator, rows

pytestmark = pytest.mark.skipif(not magika.available(), reason="needs the extra 'malware'")
ODD = [
    b"  \n\nimport os\n\n",
    b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
    b'{"a": [1, 2, 3]}',
    b"# x\n" * 900,
]


def read(x):
    places, there = magika.seen(tokens(x))
    return torch.where(there, tokens(x).gather(1, places), PAD)


@pytest.mark.parametrize("kind", ["sources", "odd"])
def test_scores_are_those_of_the_onnx_runtime(kind):
    """To six digits; less on files that are nearly all padding, where E(h^2) - E(h)^2 cancels in float32."""
    import onnxruntime

    x, atol = (magika.sources(8)[1].x, 1e-6) if kind == "sources" else (rows_of(ODD, magika.LENGTH), 5e-3)
    session = onnxruntime.InferenceSession(str(magika.path()), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"bytes": read(x).int().numpy()})
    found = magika.magika().predict(x).softmax(1)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=atol)


def test_the_model_reads_what_the_client_reads():
    """Label and score of files with white space at either end, short ones and long ones."""
    target, x = magika.magika(), rows_of(ODD, magika.LENGTH)
    found = target.predict(x).softmax(1).max(1)
    for row, raw in enumerate(files(x)):
        said = magika._client().identify_bytes(raw)
        assert target.net.labels[found.indices[row]] == said.dl.label
    assert torch.equal(target.net.confirm(x), found.indices)


def test_one_hot_codes_score_as_their_files_do():
    target, x = magika.magika(), magika.sources(4)[1].x
    code = torch.nn.functional.one_hot(tokens(x), PAD + 1).float()
    torch.testing.assert_close(target.predict(code), target.predict(x))


@pytest.mark.slow
def test_edited_comments_turn_the_answer_of_the_client_and_not_the_program():
    target, samples = magika.magika(), magika.sources(8)[1]
    budget = Bytes(form="python", edits=128, append=64)
    oracle = GradientOracle(target, len(samples))
    practice = Practice(samples[:0], GradientOracle(target, 0), generator(0))
    made = attack(oracle, samples.x, Misclassify(samples.y), budget, practice, rng=rows(0, len(samples)))
    assert budget.valid(made, samples.x).all()
    assert (target.net.confirm(samples.x) == samples.y).all()
    assert (target.net.confirm(made) != samples.y).sum() >= 2
