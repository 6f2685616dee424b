"""The report as SARIF 2.1.0, which code hosts show beside the code."""

import json
from typing import Any

from casemate.assess.result import Outcome
from casemate.report.model import Trouble, VerdictView, View

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# a result that is no failure must have level "none"; so what needs attention is of kind "fail"
LEVELS: dict[Outcome, tuple[str, str]] = {
    "falls": ("fail", "error"),
    "inconclusive": ("fail", "warning"),
    "not_tested": ("fail", "note"),
    "holds": ("pass", "none"),
}


def sarif(view: View) -> str:
    """Write one result per threat, and a notification per case that could not be answered."""
    rules = {verdict.threat: verdict for verdict in view.verdicts}
    order = list(rules)
    driver: dict[str, Any] = {"name": "casemate", "rules": [_rule(verdict) for verdict in rules.values()]}
    if view.version:
        driver["version"] = view.version
    run = {
        "tool": {"driver": driver},
        "invocations": [
            {
                "executionSuccessful": not any(t.kind == "Failed" for t in view.troubles),
                "toolExecutionNotifications": [_notification(trouble) for trouble in view.troubles],
            }
        ],
        "results": [_result(verdict, order.index(verdict.threat)) for verdict in view.verdicts],
        "properties": {"command": view.command, **dict(view.reproduce)},
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"


def _rule(verdict: VerdictView) -> dict[str, Any]:
    return {
        "id": verdict.threat,
        "shortDescription": {"text": verdict.title},
        "fullDescription": {"text": verdict.question or verdict.title},
        "properties": {"tags": ["security", verdict.family or "not tested"]},
    }


def _result(verdict: VerdictView, index: int) -> dict[str, Any]:
    kind, level = LEVELS[verdict.outcome]
    return {
        "ruleId": verdict.threat,
        "ruleIndex": index,
        "kind": kind,
        "level": level,
        "message": {"text": message(verdict)},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": "assessment.json"}}}],
        "partialFingerprints": {"threat/v1": verdict.threat},
    }


def message(verdict: VerdictView) -> str:
    """Say a verdict in one line: outcome, number, baseline, requirement, budget and reasons."""
    parts = [f"{verdict.title}: {verdict.word}."]
    if verdict.measured:
        found = verdict.measured
        parts.append(f"{verdict.metric} {found.text} (95% interval {found.interval}, n = {found.n}).")
    if verdict.baseline:
        parts.append(f"Random baseline {verdict.baseline.text}.")
    if verdict.clean:
        parts.append(f"Clean {verdict.clean_title + ' ' if verdict.clean_title else ''}{verdict.clean.text}.")
    if verdict.requirement:
        parts.append(f"Required: {verdict.requirement}.")
    if verdict.budget:
        parts.append(f"Budget: {verdict.budget}.")
    if verdict.why:
        parts.append(verdict.why)
    return " ".join(parts)


def _notification(trouble: Trouble) -> dict[str, Any]:
    level = "error" if trouble.kind == "Failed" else "warning"
    return {"level": level, "message": {"text": f"{trouble.kind}: {trouble.name}: {trouble.reason}"}}
