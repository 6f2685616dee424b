"""Black boxes behind a real server on the loopback interface."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch

from casemate.assess.remote import Endpoint
from casemate.assess.targets import load_model
from casemate.core.data import Samples
from casemate.core.errors import NoAnswer, NotApplicable, UsageError
from casemate.core.target import GradientOracle, LabelOracle, Prepared
from casemate.core.threat import Misclassify

DATA = Samples(torch.rand(100, 3, generator=torch.Generator().manual_seed(0)), torch.arange(100) % 3, 3)
# an answer: the status and the body for a question
Reply = Callable[[dict[str, Any]], tuple[int, bytes]]


class Server:
    """A server that answers by a function and remembers what it was asked."""

    def __init__(self) -> None:
        self.reply: Reply = classify("logits")
        self.asked: list[tuple[int, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((len(question["inputs"]), dict(self.headers)))
                status, body = outer.reply(question)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/classify"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def classify(kind: str) -> Reply:
    """Answer with logits 10 x - 3."""

    def reply(question: dict[str, Any]) -> tuple[int, bytes]:
        logits = 10 * torch.tensor(question["inputs"]) - 3
        answer = {"logits": logits, "probabilities": logits.softmax(1), "labels": logits.argmax(1)}[kind]
        return 200, json.dumps({kind: answer.tolist()}).encode()

    return reply


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("casemate.assess.remote.time.sleep", lambda seconds: None)
    server = Server()
    yield server
    server.stop()


def refusal(url: str, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(url, DATA, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_logits_come_back_as_they_are(server):
    found = load_model(server.url, DATA)
    torch.testing.assert_close(found.classifier.predict(DATA.x), 10 * DATA.x - 3)
    assert not found.classifier.differentiable
    assert found.make is None


def test_probabilities_come_back_as_their_logarithms(server):
    server.reply = classify("probabilities")
    found = load_model(server.url, DATA)
    torch.testing.assert_close(found.classifier.predict(DATA.x), (10 * DATA.x - 3).log_softmax(1))


def test_labels_come_back_as_labels(server):
    server.reply = classify("labels")
    target = load_model(server.url, DATA).classifier
    assert target.outputs == "labels"
    assert LabelOracle(target, len(DATA)).labels(DATA.x).tolist() == DATA.x.argmax(1).tolist()


def test_the_black_box_sees_the_values_that_its_model_takes(server):
    """Logits are 10 z - 3 of what arrives, and z = 255 x."""
    target = load_model(server.url, DATA, bounds=(0, 255)).classifier
    torch.testing.assert_close(target.predict(DATA.x), 2550 * DATA.x - 3)


def test_a_question_holds_at_most_64_rows(server):
    target = load_model(server.url, DATA).classifier
    server.asked.clear()
    target.predict(DATA.x)
    assert [rows for rows, _ in server.asked] == [64, 36]


def test_gradients_are_not_to_be_had(server):
    target = load_model(server.url, DATA).classifier
    with pytest.raises(NotApplicable, match="answers queries only"):
        GradientOracle(Prepared(target), len(DATA)).gradient(DATA.x, Misclassify(DATA.y))


def test_the_digest_follows_what_the_black_box_does(server):
    first, again = load_model(server.url, DATA).digest, load_model(server.url, DATA).digest
    server.reply = lambda question: (
        200,
        json.dumps({"logits": [[1.0, 2.0, 3.0]] * len(question["inputs"])}).encode(),
    )
    assert first == again != load_model(server.url, DATA).digest


def test_a_server_that_is_busy_is_asked_again(server):
    answers = iter([503, 429])

    def reply(question: dict[str, Any]) -> tuple[int, bytes]:
        status = next(answers, 200)
        return (status, b"busy") if status != 200 else classify("logits")(question)

    server.reply = reply
    assert load_model(server.url, DATA).classifier.classes == 3


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (500, b"", "answered 500"),
        (404, b"", "answered 404"),
        (302, b"", "answered 302"),
        (200, b"<html>", "must answer with JSON. Got b'<html>'"),
        (200, b"[1]", "must answer with a JSON object. Got a list"),
        (200, b'{"error": 1}', "must answer with 'logits', 'probabilities' or 'labels'. Got 'error'"),
        (200, b'{"logits": "no"}', "must answer with 'logits', a list of numbers per input"),
        (200, b'{"logits": [1, 2]}', "must have 2 dimensions. Got 1"),
        (200, b'{"logits": [[1, 2, 3]]}', "was asked about 64 inputs and answered for 1"),
    ],
)
def test_answers_that_cannot_be_used_are_told_in_one_line(server, status, body, told):
    server.reply = lambda question: (status, body)
    assert told in refusal(server.url)


@pytest.mark.parametrize("label", [3, -1, 0.5])
def test_a_label_that_is_no_class_is_told(server, label):
    server.reply = lambda question: (200, json.dumps({"labels": [label] * len(question["inputs"])}).encode())
    assert f"in 0 .. 2. Got {label:g}" in refusal(server.url)


def test_a_server_that_is_not_there_is_told(server):
    server.stop()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        Endpoint(server.url, 3, tries=1).post({"inputs": []})
    assert "cannot be reached" in refusal(server.url)


def test_authorization_is_sent_and_passwords_in_addresses_are_refused(server, monkeypatch):
    monkeypatch.setenv("CASEMATE_AUTHORIZATION", "Bearer abc")
    load_model(server.url, DATA)
    assert {headers["Authorization"] for _, headers in server.asked} == {"Bearer abc"}
    assert "must hold no password" in refusal("http://me:secret@127.0.0.1/")
    assert "must be http(s)://HOST/PATH" in refusal("http:///classify")


def test_the_query_of_an_address_is_not_repeated(server):
    assert Endpoint("http://127.0.0.1/c?key=secret", 3).name == "http://127.0.0.1/c"


def test_a_black_box_that_falls_silent_later_ends_in_one_line(server, tmp_path, capsys, monkeypatch):
    """After three questions, which load it, the server refuses: no traceback, and exit code 1."""
    from casemate.cli.main import run

    answer = classify("logits")
    monkeypatch.setattr(
        server, "reply", lambda question: answer(question) if len(server.asked) <= 3 else (403, b"")
    )
    data = tmp_path / "data.npz"
    np.savez(data, x=DATA.x.numpy(), y=DATA.y.numpy())
    code = run(["assess", "--model", server.url, "--data", f"npz:{data}", "--out", str(tmp_path / "out")])
    assert code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "answered 403" in said
    assert said.startswith("casemate: ")
    assert issubclass(NoAnswer, ConnectionError)
