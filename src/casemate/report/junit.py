"""The report as JUnit XML, which continuous integration shows as tests."""

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from casemate.report.model import View
from casemate.report.sarif import message

# what XML 1.0 cannot hold
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(view: View) -> str:
    """Write one test case per threat and one per case without an answer.

    Falls is a failure. Not tested is skipped, and so is inconclusive: JUnit knows no doubt, and a
    passed test would claim too much.
    """
    suite = Element("testsuite", name=_clean(view.title))
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for verdict in view.verdicts:
        test = SubElement(
            suite,
            "testcase",
            classname=_clean(f"casemate.{verdict.family or 'other'}"),
            name=_clean(verdict.title),
        )
        counts["tests"] += 1
        text = _clean(message(verdict))
        match verdict.outcome:
            case "falls":
                SubElement(test, "failure", type="falls", message=text).text = text
                counts["failures"] += 1
            case "not_tested" | "inconclusive":
                SubElement(test, "skipped", message=text)
                counts["skipped"] += 1
            case "holds":
                SubElement(test, "system-out").text = text
    for trouble in view.troubles:
        if trouble.kind == "No pictures":
            continue
        test = SubElement(suite, "testcase", classname="casemate.cases", name=_clean(trouble.name))
        counts["tests"] += 1
        if trouble.kind == "Skipped":
            SubElement(test, "skipped", message=_clean(trouble.reason))
            counts["skipped"] += 1
        else:
            SubElement(test, "error", type=trouble.kind.lower(), message=_clean(trouble.reason))
            counts["errors"] += 1
    for name, count in counts.items():
        suite.set(name, str(count))
    root = Element("testsuites", name="casemate")
    root.append(suite)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", text)
