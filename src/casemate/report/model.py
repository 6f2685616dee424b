"""The report as plain data: every format is written from this, and `report.json` is this."""

from pydantic import BaseModel, ConfigDict, Field

from casemate.assess.result import Outcome, Status
from casemate.report.words import Unit


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Number(_Frozen):
    """A measured number with its 95% interval and n, raw and as text."""

    value: float
    low: float
    high: float
    n: int
    text: str
    interval: str


class Doubt(_Frozen):
    """A flag with its explanation; `where` names the cases that raised it."""

    code: str
    title: str
    detail: str
    meaning: str
    action: str
    where: tuple[str, ...] = ()


class Tried(_Frozen):
    """A case that a verdict rests on, with the number it came to alone."""

    key: str
    name: str
    number: Number | None


class Left(_Frozen):
    """What was not tried, and why."""

    name: str
    reason: str


class VerdictView(_Frozen):
    """One threat: its outcome, the three numbers, the requirement, what was tried and what not.

    `bound` and `at_least` are the requirement as a number, where it could be read. `clean_title`
    names the metric of `clean` where it is another one than the verdict's. `on_scale` tells that the
    numbers are shares, so that they can be drawn on one scale. `chained` tells that each case of
    `tried` got only what those before it had left.
    """

    threat: str
    title: str
    family: str
    question: str
    outcome: Outcome
    word: str
    symbol: str
    why: str
    metric: str
    measured: Number | None
    baseline: Number | None
    clean: Number | None
    clean_title: str
    on_scale: bool
    requirement: str
    bound: float | None
    at_least: bool
    budget: str
    access: str
    tried: tuple[Tried, ...]
    chained: bool
    not_tried: tuple[Left, ...]
    doubts: tuple[Doubt, ...]


class Answer(_Frozen):
    """One of the three questions with its answer in a sentence."""

    question: str
    outcome: Outcome
    word: str
    symbol: str
    sentence: str


class Trouble(_Frozen):
    """A case without a usable answer: failed, skipped, missing or damaged."""

    kind: str
    key: str
    name: str
    reason: str


class MetricRow(_Frozen):
    """One metric of a case: under attack, at random, and without an adversary."""

    name: str
    title: str
    attack: Number | None
    baseline: Number | None
    clean: Number | None


class Setting(_Frozen):
    """A parameter of a method with its value and what it means."""

    name: str
    value: str
    help: str


class Picture(_Frozen):
    """One example: clean, changed, and the difference; PNG files, left out of `report.json`.

    `before` and `after` are what it was and what became of it, `size` how large the change is, and
    `difference` says how much stronger the difference is drawn than it is.
    """

    before: str
    after: str
    changed: bool
    size: str
    difference: str
    clean_png: bytes = Field(exclude=True, repr=False)
    changed_png: bytes = Field(exclude=True, repr=False)
    difference_png: bytes = Field(exclude=True, repr=False)


class Gallery(_Frozen):
    """Examples of one case. `form` is "image" or "strip"; `labels` name the inputs before and after.

    `heading` is for those that need one beside the others of their case.

    `width` and `height` are those of one picture in pixels, `note` says how they were drawn;
    `changed` is false where only labels differ, so that one picture per example is enough.
    """

    key: str
    heading: str = ""
    form: str
    labels: tuple[str, str]
    width: int
    height: int
    note: str
    changed: bool
    pictures: tuple[Picture, ...]


class CaseView(_Frozen):
    """One case with all that was asked, spent and measured."""

    key: str
    method: str
    name: str
    label: str
    family: str
    summary: str
    status: Status
    reason: str
    headline: Number | None
    headline_title: str
    metrics: tuple[MetricRow, ...]
    settings: tuple[Setting, ...]
    access: str
    budget: str
    rows: int
    seed: int
    defences: tuple[str, ...]
    after: tuple[Tried, ...]
    cost: tuple[tuple[str, str], ...]
    doubts: tuple[Doubt, ...]
    notes: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    galleries: tuple[Gallery, ...] = ()
    gallery_note: str = ""


class Line(_Frozen):
    """A curve of a chart; `low` and `high` may be empty. `quiet` marks a baseline."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    quiet: bool = False


class Chart(_Frozen):
    """Curves on common axes.

    `log` puts both axes on a logarithmic scale, `diagonal` draws chance, `mark` a vertical line at
    the budget, `level` a horizontal one at what is required. `columns` and `rows` are the table of values
    beside the picture.
    """

    id: str
    family: str
    title: str
    caption: str
    alt: str
    x_label: str
    y_label: str
    x_unit: Unit
    y_unit: Unit
    lines: tuple[Line, ...]
    log: bool = False
    diagonal: bool = False
    mark: float | None = None
    mark_name: str = ""
    level: float | None = None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class Change(_Frozen):
    """One line of before and after."""

    name: str
    before: str
    after: str
    note: str = ""


class Hardening(_Frozen):
    """What a defence brought and what it cost."""

    defence: str
    sentence: str
    threats: tuple[Change, ...]
    price: tuple[Change, ...]
    facts: tuple[tuple[str, str], ...]


class Reference(_Frozen):
    """A publication, and the methods in this report that come from it."""

    text: str
    url: str
    methods: tuple[str, ...]


class Word(_Frozen):
    """A word of the field and what it means."""

    word: str
    meaning: str


class View(_Frozen):
    """The whole report; `after` is the path of a report on the hardened target, if there is one."""

    title: str
    kind: str
    answers: tuple[Answer, ...]
    facts: tuple[tuple[str, str], ...]
    verdicts: tuple[VerdictView, ...]
    troubles: tuple[Trouble, ...]
    checks: tuple[Doubt, ...]
    after: str
    hardening: Hardening | None
    charts: tuple[Chart, ...]
    cases: tuple[CaseView, ...]
    shown: tuple[str, ...]
    references: tuple[Reference, ...]
    command: str
    reproduce: tuple[tuple[str, str], ...]
    words: tuple[Word, ...]
    version: str
