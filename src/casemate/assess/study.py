"""Whether adversarial pictures sway people: what the answers of a study say.

Conditions after Elsayed et al. 2018: `image` is the original, `adv` the adversarial picture, `flip` the
original under the mirrored change (as much noise, no meaning), and `false` an adversarial picture of
which neither answer is right, so that a lean towards the adversary's class is seen by itself.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats as _stats

from casemate.core.errors import UsageError
from casemate.ops.stats import Estimate, mean, share

Condition = Literal["image", "adv", "flip", "false"]
CONDITIONS: tuple[Condition, ...] = ("image", "adv", "flip", "false")
EXACT = 16  # participants up to which every sign pattern is tried
DRAWS = 20_000


class Answer(BaseModel):
    """One trial as the page records it; times are in milliseconds, `choice` is empty where none came in time."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    participant: str
    condition: Condition
    choice: str
    label: str
    target: str
    reaction_ms: float | None = None
    exposure_ms: float | None = None


class Session(BaseModel):
    """The file that a participant hands in."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    study: Literal["casemate human study"]
    answers: tuple[Answer, ...]


def read_sessions(paths: Sequence[Path]) -> list[Answer]:
    """Read the JSON files of participants; raises UsageError on what is none, or handed in twice."""
    answers: list[Answer] = []
    seen: set[str] = set()
    for path in paths:
        try:
            session = Session.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
            raise UsageError(f"{path} is not the JSON file of a human study, at {where}.") from None
        people = {a.participant for a in session.answers}
        if people & seen:
            raise UsageError(f"{path} holds participant '{min(people & seen)}', who was read before.")
        seen |= people
        answers += session.answers
    if not answers:
        raise UsageError("The files hold no answers.")
    return answers


@dataclass(frozen=True)
class Effect:
    """A difference within participants: mean with Student's interval, and tests over participants.

    `better`, `worse` count participants on either side of zero; `sign_p` is the exact sign test, two-sided, and
    `permutation_p` flips the signs of whole participants. `power` is the chance that as many new
    participants would show such an effect at the 5% level, `needed` how many would at 80%.
    """

    name: str
    difference: Estimate
    better: int
    worse: int
    sign_p: float
    permutation_p: float
    power: float
    needed: int | None


@dataclass(frozen=True)
class Scored:
    """What a study found. Shares are of answers given in time; `late` of all trials came too late."""

    participants: int
    trials: int
    late: int
    exposure_ms: float | None
    shares: dict[str, Estimate]
    effects: tuple[Effect, ...]


def score(answers: Sequence[Answer]) -> Scored:
    """Compare the conditions within participants.

    The intervals of `shares` take answers as independent, which those of one person are not; the
    tests of `effects` take participants as what was drawn.
    """
    given = [a for a in answers if a.choice in (a.label, a.target) or (a.condition == "false" and a.choice)]
    hits = {c: [_hit(a) for a in given if a.condition == c] for c in CONDITIONS}
    shares = {
        ("leans to the target" if c == "false" else f"right, {c}"): share(sum(found), len(found))
        for c, found in hits.items()
    }
    people = sorted({a.participant for a in given})
    rates = {(p, c): _rate([a for a in given if (a.participant, a.condition) == (p, c)])
             for p in people for c in CONDITIONS}  # fmt: skip
    against = {
        "accuracy lost to the attack (image - adv)": [rates[p, "image"] - rates[p, "adv"] for p in people],
        "accuracy lost to its structure (flip - adv)": [rates[p, "flip"] - rates[p, "adv"] for p in people],
        "lean towards the target (false - 1/2)": [rates[p, "false"] - 0.5 for p in people],
    }
    exposures = [a.exposure_ms for a in answers if a.exposure_ms is not None]
    return Scored(
        participants=len({a.participant for a in answers}),
        trials=len(answers),
        late=len(answers) - len(given),
        exposure_ms=float(np.median(exposures)) if exposures else None,
        shares=shares,
        effects=tuple(effect(name, np.array(values)) for name, values in against.items()),
    )


def _hit(answer: Answer) -> bool:
    return answer.choice == (answer.target if answer.condition == "false" else answer.label)


def _rate(answers: Sequence[Answer]) -> float:
    return float(np.mean([_hit(a) for a in answers])) if answers else float("nan")


def effect(name: str, differences: np.ndarray) -> Effect:
    """Test whether differences of participants (N,) are around zero; what is no number is left out."""
    values = differences[np.isfinite(differences)]
    better, worse = int((values > 0).sum()), int((values < 0).sum())
    sign_p = float(_stats.binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0
    size = values.mean() / values.std(ddof=1) if len(values) > 1 and values.std(ddof=1) > 0 else None
    return Effect(
        name=name,
        difference=mean(values),
        better=better,
        worse=worse,
        sign_p=sign_p,
        permutation_p=permutation_p(values),
        power=power(float(size), len(values)) if size is not None else float("nan"),
        needed=needed(float(size)) if size is not None else None,
    )


def permutation_p(values: np.ndarray) -> float:
    """Two-sided p-value of a mean under flips of signs: all of them up to 16 values, else random ones."""
    if not len(values):
        return 1.0
    observed = abs(values.sum()) * (1 - 1e-12)  # ties by rounding count
    if len(values) <= EXACT:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
        return float((np.abs(signs @ values) >= observed).mean())
    signs = np.random.default_rng(0).choice((-1, 1), (DRAWS, len(values)))
    # the observed pattern is one of those under the hypothesis, so a p-value is never 0
    return float((1 + (np.abs(signs @ values) >= observed).sum()) / (1 + DRAWS))


def power(size: float, n: int, level: float = 0.05) -> float:
    """Chance that a two-sided paired t test of n participants shows an effect of `size` deviations."""
    if n < 2:
        return float("nan")
    bound = _stats.t.ppf(1 - level / 2, n - 1)
    shift = abs(size) * n**0.5
    # scipy gives no number where a tail is too far out to tell from 0
    near = 1.0 if shift > 30 else float(_stats.nct.sf(bound, n - 1, shift))
    far = float(np.nan_to_num(_stats.nct.cdf(-bound, n - 1, shift)))
    return min(1.0, near + far)


def needed(size: float, wanted: float = 0.8, most: int = 5000) -> int | None:
    """Fewest participants with which the power is as wanted; None where it takes more than `most`."""
    low, high = 2, most
    if size == 0 or not power(size, high) >= wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(size, middle) >= wanted else (middle + 1, high)
    return low


def as_json(found: Scored) -> str:
    """Write what was found as JSON; numbers that are none become null."""

    def plain(value: object) -> object:
        if isinstance(value, float):
            return value if np.isfinite(value) else None
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    from dataclasses import asdict

    return json.dumps(plain(asdict(found)), indent=1)
