"""A black box behind HTTP: JSON in, JSON out.

A request is `POST URL` with `{"inputs": [...]}`, the inputs as nested lists (N, *S) in the values
that the model takes. The answer is `{"logits": [[...]]}`, `{"probabilities": [[...]]}`, both
(N, K), or `{"labels": [...]}`, (N,). The environment variable CASEMATE_AUTHORIZATION, if set, is
sent as the Authorization header; it is stored nowhere.
"""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from casemate.core.errors import NoAnswer, UsageError

Answer = Literal["logits", "probabilities", "labels"]
ANSWERS: tuple[Answer, ...] = ("logits", "probabilities", "labels")


@dataclass(frozen=True)
class Endpoint:
    """An address that classifies batches.

    `batch` rows go into one request; a request that fails is sent `tries` times, with a pause of
    `pause` seconds that doubles. `timeout` is in seconds. With labels only, `classes` numbers are
    answered, 1 for the label and 0 for the others.
    """

    url: str
    classes: int
    answer: Answer | None = None
    batch: int = 64
    tries: int = 3
    pause: float = 0.5
    timeout: float = 60.0

    def __call__(self, x: Tensor) -> Tensor:
        """Ask about x (N, *S): (N, K)."""
        parts = [self._one(part) for part in x.split(self.batch)]
        return torch.cat(parts).to(x) if parts else x.new_zeros(0, self.classes)

    def _one(self, x: Tensor) -> Tensor:
        reply = self.post({"inputs": x.cpu().tolist()})
        key = self.answer or find_answer(reply)
        values = _numbers(reply, key)
        if len(values) != len(x):
            raise NoAnswer(f"The black box was asked about {len(x)} inputs and answered for {len(values)}.")
        if key != "labels":
            return values
        strange = ~((values >= 0) & (values < self.classes) & (values == values.round()))
        if bool(strange.any()):
            raise NoAnswer(
                f"The labels of the black box must be whole numbers in 0 .. {self.classes - 1}. "
                f"Got {float(values[strange][0]):g}."
            )
        return torch.nn.functional.one_hot(values.long(), self.classes).float()

    def post(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a question and read the answer.

        Raises NoAnswer if there is no answer, or none in the agreed form.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        secret = os.environ.get("CASEMATE_AUTHORIZATION")
        if secret:
            headers["Authorization"] = secret
        request = urllib.request.Request(self.url, json.dumps(question).encode(), headers)  # noqa: S310
        for left in reversed(range(self.tries)):
            try:
                with _opener().open(request, timeout=self.timeout) as reply:
                    return _object(reply.read())
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in (429, 500, 502, 503, 504) or not left:
                    raise NoAnswer(f"{self.name} answered {error.code} {error.reason}.") from None
            except OSError as error:
                if not left:
                    reason = getattr(error, "reason", None) or error
                    raise NoAnswer(f"{self.name} cannot be reached: {reason}.") from None
            time.sleep(self.pause * 2 ** (self.tries - 1 - left))
        raise AssertionError("the last try returns or raises")

    @property
    def name(self) -> str:
        """Address without its query, which may hold a secret."""
        return self.url.partition("?")[0]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would carry inputs and authorization to another host."""

    def redirect_request(self, *arguments: Any) -> None:
        """Decline."""


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(raw)
    except ValueError:
        raise NoAnswer(f"The black box must answer with JSON. Got {raw[:60]!r}.") from None
    if not isinstance(reply, dict):
        raise NoAnswer(f"The black box must answer with a JSON object. Got a {type(reply).__name__}.")
    return reply


def find_answer(reply: dict[str, Any]) -> Answer:
    """Tell what kind of answer a reply holds."""
    for key in ANSWERS:
        if key in reply:
            return key
    got = ", ".join(map(repr, sorted(reply)[:5])) or "an empty object"
    raise NoAnswer(f"The black box must answer with 'logits', 'probabilities' or 'labels'. Got {got}.")


def _numbers(reply: dict[str, Any], key: Answer) -> Tensor:
    wanted = 1 if key == "labels" else 2
    try:
        values = torch.tensor(reply[key], dtype=torch.float32)
    except (KeyError, TypeError, ValueError):
        raise NoAnswer(f"The black box must answer with '{key}', a list of numbers per input.") from None
    if values.dim() != wanted:
        raise NoAnswer(f"The '{key}' of the black box must have {wanted} dimensions. Got {values.dim()}.")
    return values


def check_url(url: str) -> None:
    """Refuse an address that is none, or that would put a password into the report."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise UsageError(f"The address of a black box must be http(s)://HOST/PATH. Got '{url}'.")
    if parts.username or parts.password:
        raise UsageError(
            "The address of a black box must hold no password, since reports print it; "
            "set CASEMATE_AUTHORIZATION to the header's value instead."
        )
