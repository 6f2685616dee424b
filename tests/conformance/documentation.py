"""What every registered method tells its users, whatever its family."""

import ast
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from casemate.core.registry import Entry

Check = Callable[[Entry], None]
CHECKS: list[Check] = []
BOUNDS = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
NUMBERS = {"integer", "number"}
# calls that a method may not make: they print, run text, seed or move devices
FORBIDDEN = {"print", "eval", "exec", "compile", "breakpoint", "input", "open"}
FORBIDDEN_METHODS = {"manual_seed", "seed", "cuda", "cpu"}


def check(function: Check) -> Check:
    """Add a promise to the battery."""
    CHECKS.append(function)
    return function


@check
def has_a_first_line_that_stands_alone(entry: Entry) -> None:
    assert re.fullmatch(r"[A-Z][^\n]{10,110}\.", entry.summary), repr(entry.summary)


@check
def describes_every_parameter(entry: Entry) -> None:
    for name, parameter in entry.params.model_fields.items():
        text = parameter.description or ""
        assert len(text) >= 10, f"the parameter '{name}' is not described"


@check
def bounds_every_number(entry: Entry) -> None:
    for name, schema in entry.params.model_json_schema().get("properties", {}).items():
        for part in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
            if part.get("type") in NUMBERS:
                assert BOUNDS & part.keys(), f"the parameter '{name}' has no bound: {schema}"


@check
def accepts_its_own_defaults(entry: Entry) -> None:
    assert set(entry.validate({})) == set(entry.params.model_fields)


@check
def cites_a_paper(entry: Entry) -> None:
    assert entry.papers
    for paper in entry.papers:
        assert paper.url.startswith("https://"), paper
        assert len(paper.title) > 10, paper
        assert paper.authors, paper
        assert 1900 < paper.year < 2100, paper


@check
def takes_inputs_by_position_and_settings_by_name(entry: Entry) -> None:
    kinds = [p.kind for p in inspect.signature(entry.run).parameters.values()]
    assert set(kinds) <= {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY}


@check
def calls_nothing_forbidden(entry: Entry) -> None:
    """Methods neither print nor seed, and leave devices to the harness."""
    tree = ast.parse(inspect.getsource(sys.modules[entry.module]))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if method else getattr(node.func, "id", "")
        assert name not in (FORBIDDEN_METHODS if method else FORBIDDEN), f"calls {name} in line {node.lineno}"
        if name == "to":
            moved = [*node.args, *(k.value for k in node.keywords)]
            texts = [ast.unparse(argument) for argument in moved]
            # next to another tensor is no move of the caller's choice
            assert not any("torch.device" in t or t.startswith(("'cuda", "'cpu")) for t in texts), texts


def shared_names(entries: Sequence[Entry]) -> list[str]:
    """Names by which more than one method would be found, as `registry.find` compares them."""
    names: Counter[str] = Counter()
    for entry in entries:
        own = {re.sub(r"[^a-z0-9.+]", "", n.lower()) for n in (entry.name, entry.id, *entry.known_as)}
        names.update(own)
    return sorted(name for name, count in names.items() if count > 1)
