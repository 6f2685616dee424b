import pytest

from casemate.assess.plan import ENSEMBLES, check, customary_eps, read_plan
from casemate.assess.presets import preset
from casemate.core.errors import UnknownMethod, UsageError
from casemate.core.registry import find
from casemate.core.semantic import Attributes, Colours, Conditional, Latent

PLAN = """
rows = 100
[[threats]]
id = "pixels"
title = "Small changes"
family = "evasion"
norm = "linf"
eps = "8/255"
attacks = ["evasion.fgsm", {method = "evasion.pgd", params = {steps = 7}}, "autoattack"]
chain = true
require = {metric = "robust_accuracy", at_least = 0.5}
"""


def written(tmp_path, text):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
def test_every_preset_names_only_methods_and_parameters_that_exist(name):
    check(preset(name))


def test_a_longer_preset_asks_all_that_a_shorter_one_asks():
    quick, standard, thorough = ({t.id for t in preset(n).threats} for n in ("quick", "standard", "thorough"))
    assert quick < standard < thorough


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
def test_every_preset_asks_what_a_flood_of_one_class_costs_beside_scattered_wrong_labels(name):
    (threat,) = (t for t in preset(name).threats if t.id == "poisoning-labels")
    assert [ask.params["labels"] for ask in threat.attacks] == ["each its own", "one for all"]
    assert {ask.method for ask in threat.attacks} == {"poisoning.label_flip"}


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match=r"quick, standard or thorough\. Got 'fast'"):
        preset("fast")


def test_a_plan_reads_fractions_ensembles_and_parameters(tmp_path):
    (threat,) = read_plan(written(tmp_path, PLAN)).threats
    assert threat.budget((3, 32, 32)).eps == 8 / 255
    assert [a.method for a in threat.attacks[:2]] == ["evasion.fgsm", "evasion.pgd"]
    assert threat.attacks[2:] == ENSEMBLES["autoattack"]
    assert threat.attacks[1].params == {"steps": 7}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("evasion.fgsm", "evasion.fgms", r"evasion\.fgsm"),
        ("steps = 7", "stepz = 7", "stepz"),
        ("steps = 7", "steps = 0", "steps"),
        ('"8/255"', "8", "did you mean 8/255"),
        ('norm = "linf"', 'norm = "l7"', "norm"),
        ("rows = 100", "rows = -1", "rows"),
        ("rows = 100", "rowz = 100", "rowz"),
        ("[[threats]]", "[[threats", "not valid TOML"),
        ('family = "evasion"', 'family = "backdoor"', "family"),
        ('family = "evasion"', 'family = "training"', "family"),
        ("chain = true", "queries = -3", "queries"),
        ("steps = 7", 'step_size = "x/255"', "must be a number or a fraction such as 8/255. Got 'x/255'"),
        ("chain = true", "rates = [1.5]", r"'rates' of '[a-z-]+' must be in \[0, 1\].* Got 1\.5"),
        ('"8/255"', '"a lot"', "In '[a-z-]+': The 'eps' must be a number or a fraction"),
        ('norm = "linf"', "norm = 7", "at 'norm' of '[a-z-]+'"),
        (", at_least = 0.5", "", "robust_accuracy with at_least. Got robust_accuracy with neither"),
        ("at_least", "at_most", "robust_accuracy with at_least. Got robust_accuracy with at_most"),
        ('"robust_accuracy", at_least', '"success_rate", at_most', "robust_accuracy with at_least"),
        ("at_least = 0.5", "at_least = 50", r"must be in \[0, 1\], a share. Got 50; did you mean 0.5\?"),
        ("at_least = 0.5", "at_least = -1", r"must be in \[0, 1\], a share. Got -1\."),
        ("at_least = 0.5", "at_least = nan", r"must be in \[0, 1\], a share. Got nan\."),
        ("rows = 100", "rowz = 100", "at 'rowz': no such setting"),
        ('"robust_accuracy"', '"robust"', "robust_accuracy with at_least. Got robust with at_least"),
    ],
)
def test_a_wrong_plan_gets_one_line_that_names_what_is_wrong(tmp_path, old, new, says):
    with pytest.raises((UsageError, UnknownMethod), match=says) as caught:
        read_plan(written(tmp_path, PLAN.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_rows_of_a_threat_that_is_judged_on_all_rows_are_refused(tmp_path):
    text = """
    [[threats]]
    id = "trigger"
    title = "A trigger"
    family = "backdoor"
    attacks = ["backdoor.badnets"]
    rates = [0.01]
    rows = 100
    require = {metric = "attack_success", at_most = 0.1}
    """
    with pytest.raises(UsageError, match=r"'trigger' must not have 'rows'.*Got rows = 100\.") as caught:
        read_plan(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert read_plan(written(tmp_path, text.replace("rows = 100", ""))).threats[0].rates == (0.01,)


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml"):
        read_plan(tmp_path / "absent.toml")


def test_customary_radii_are_those_of_the_literature():
    assert customary_eps("linf", (3, 32, 32)) == 8 / 255
    assert customary_eps("l2", (3, 32, 32)) == 0.5
    assert customary_eps("linf", (1, 28, 28)) == 0.1
    assert customary_eps("l2", (1, 28, 28)) == 1.0


def test_threats_that_are_no_list_are_refused(tmp_path):
    with pytest.raises(UsageError, match="threats"):
        read_plan(written(tmp_path, "threats = 3"))


SEMANTIC = """
[[threats]]
id = "meaning"
title = "The same thing otherwise"
family = "semantic"
attacks = ["semantic.hue_saturation"]
colours = { hue = 0.25 }
require = { metric = "robust_accuracy", at_least = 0.5 }
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("colours = { hue = 0.25 }", Colours(hue=0.25)),
        ('conditional = { generator = "g" }', Conditional(generator="g")),
        ('attributes = { names = ["angle"], limits = [0.1] }', Attributes(names=("angle",), limits=(0.1,))),
        ('generator = "g"', Latent(generator="g", radius=6.0)),
    ],
    ids=["colours", "conditional", "attributes", "generator"],
)
def test_a_semantic_threat_says_in_what_space_inputs_move(tmp_path, line, expected):
    (threat,) = read_plan(written(tmp_path, SEMANTIC.replace("colours = { hue = 0.25 }", line))).threats
    assert threat.budget((3, 32, 32)) == expected


def test_a_semantic_threat_without_a_space_or_with_two_is_refused(tmp_path):
    for line, got in (("", "none"), ('generator = "g"\ncolours = {}', "generator and colours")):
        text = SEMANTIC.replace("colours = { hue = 0.25 }", line)
        with pytest.raises(UsageError, match=f"one of generator, .* has {got}"):
            read_plan(written(tmp_path, text))


def test_a_patch_needs_the_share_that_it_covers(tmp_path):
    text = PLAN.replace('"evasion"', '"universal"').replace("evasion.fgsm", "universal.patch")
    text = text.replace(', {method = "evasion.pgd", params = {steps = 7}}, "autoattack"', "")
    with pytest.raises(
        UsageError, match=r"universal\.patch covers a share of each picture: 'pixels' needs 'area'"
    ):
        read_plan(written(tmp_path, text))


@pytest.mark.parametrize(
    ("given", "read"),
    [("24/255", 24 / 255), ("0.1", 0.1), (0.1, 0.1)],
    ids=["fraction", "text", "number"],
)
def test_a_radius_among_the_parameters_may_be_a_fraction(given, read):
    assert find("backdoor.narcissus").validate({"eps": given})["eps"] == read


def test_an_optional_number_may_be_a_fraction_as_well():
    assert find("evasion.pgd").validate({"step_size": "2/255"})["step_size"] == 2 / 255


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("24/0", r"must be a number or a fraction such as 8/255\. Got '24/0'\."),
        ("a/255", r"must be a number or a fraction such as 8/255\. Got 'a/255'\."),
        ("256/255", "less than or equal to 1"),
        ("0/255", "greater than 0"),
        ("inf/1", r"must be a number or a fraction such as 8/255\. Got 'inf/1'\."),
        ("1e308/1e-10", "must be a number or a fraction such as 8/255"),
        (24, r"Got 24; did you mean 24/255\?"),
        (1.5, r"Got 1\.5\.$"),
    ],
)
def test_a_wrong_fraction_among_the_parameters_is_refused(given, says):
    with pytest.raises(UsageError, match=says):
        find("backdoor.narcissus").validate({"eps": given})


def test_lists_of_numbers_may_have_fractions():
    validate = find("poisoning.gradient_canceling").validate
    assert validate({"radii": ["8/255", 1]})["radii"] == (8 / 255, 1.0)
    with pytest.raises(UsageError, match=r"'radii' .* must be a number or a fraction such as 8/255"):
        validate({"radii": [1, "8/0"]})


def test_a_slash_in_a_word_is_no_fraction():
    assert (
        find("backdoor.clean_label").validate({"generator": "a/b.safetensors"})["generator"]
        == "a/b.safetensors"
    )
