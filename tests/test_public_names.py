import subprocess
import sys

import pytest

import casemate

NAMES = [
    "Assessment", "Become", "CasemateError", "Classifier", "GradientOracle", "LabelOracle", "Lp", "Misclassify",
    "Poison", "PoisonBudget", "Recipe", "Result", "Samples", "ScoreOracle", "UsageError", "Verdict", "assess",
    "compare", "entries", "find", "harden", "load_data", "load_model", "prove", "read", "scan",
]  # fmt: skip


def test_the_public_names_are_these():
    assert casemate.__all__ == NAMES
    assert dir(casemate) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name):
    assert callable(getattr(casemate, name))
    assert getattr(casemate, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'casemate' has no attribute 'asess'"):
        _ = casemate.asess


def test_importing_casemate_imports_nothing_heavy():
    code = "import sys, casemate; assert 'torch' not in sys.modules; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "code",
    [
        "from casemate import assess",
        "import casemate; assess = casemate.assess",
        "import casemate.assess.plan; import casemate; assess = casemate.assess",
        "from casemate.library import assess",
    ],
)
def test_assess_can_be_called_whatever_was_imported_before(code):
    """The package of the same name must not stand in the function's way."""
    namespace: dict[str, object] = {}
    exec(code, namespace)
    with pytest.raises(casemate.UsageError, match=r"must be quick, standard or thorough\. Got 'fast'"):
        namespace["assess"](plan="fast")
