"""The names that the literature's survey gives attacks lead to methods."""

import pytest

from casemate.core.registry import find

NAMES = {
    "Human AE": "evasion", "Physical world AE": "physical", "Malware classification": "malware",
    "Membership training": "membership", "Generating natural adversarial": "semantic",
    "Constructing unrestricted": "semantic", "Semantic adversarial attack": "semantic", "BPDA": "evasion",
    "Momentum iFGSM": "evasion", "ATN": "universal", "UAP": "universal",
    "Back-gradient optimization": "poisoning", "Generative method": "poisoning", "Poisoning GAN": "poisoning",
    "Poisoning attack using influence function": "targeted", "Clean-label feature collision attack": "targeted",
    "Convex polytope attack": "targeted", "Backdoor attack": "backdoor", "Trojaning attack": "backdoor",
    "Invisible backdoor attack": "backdoor", "Clean-label backdoor attack": "backdoor",
}  # fmt: skip


@pytest.mark.parametrize(("name", "family"), NAMES.items(), ids=list(NAMES))
def test_the_survey_s_name_is_found(name: str, family: str) -> None:
    assert find(name).family == family
