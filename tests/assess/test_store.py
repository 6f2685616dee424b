import json

import pytest
import torch

from casemate.assess.case import Case
from casemate.assess.result import Assessment, Requirement, Result
from casemate.assess.store import Store
from casemate.core.errors import UsageError
from casemate.core.threat import Lp
from casemate.ops.stats import Estimate, share


def a_case(**changes):
    settings = dict(
        method="evasion.pgd", version=1, params={"steps": 3}, data="d", budget=Lp(norm="l2", eps=1), rows=5
    )
    return Case(**{**settings, **changes})


def a_result(case=None):
    case = case or a_case()
    return Result(key=case.key, case=case, status="done", metrics={"robust_accuracy": share(3, 5)})


def an_assessment(**changes):
    settings = dict(target="t", target_digest="", data="d", data_digest="", rows=5, classes=2, shape=(2,))
    return Assessment(**{**settings, **changes})


def test_equal_cases_have_equal_keys_and_any_difference_changes_the_key():
    assert a_case().key == a_case().key
    changed = [
        a_case(seed=1), a_case(rows=6), a_case(version=2), a_case(params={"steps": 4}), a_case(target="other"),
        a_case(data="e"), a_case(budget=Lp(norm="l2", eps=2)), a_case(after=("x",)), a_case(defences=("y",)),
    ]  # fmt: skip
    assert len({a_case().key, *(c.key for c in changed)}) == len(changed) + 1


def test_another_version_of_a_defence_changes_the_key_and_the_first_one_does_not():
    first = a_case(defences=("y", "z"), defence_versions=(1, 1))
    assert first.key == a_case(defences=("y", "z")).key
    assert first.key != a_case(defences=("y", "z"), defence_versions=(1, 2)).key


def test_a_result_comes_back_as_it_was_put(tmp_path):
    store = Store(tmp_path / "out")
    tensors = {"x_adv": torch.rand(2, 3), "standing": torch.tensor([True, False])}
    put = store.put(a_result(), tensors)
    assert store.get(put.key) == put
    found = store.tensors(put)
    assert all(torch.equal(found[k], v) for k, v in tensors.items())


def test_infinite_and_missing_numbers_survive_and_stay_valid_json(tmp_path):
    store = Store(tmp_path)
    endless = a_case(budget=Lp(norm="l2", eps=float("inf")))
    estimate = Estimate(float("nan"), float("-inf"), float("inf"), 0)
    put = store.put(a_result(endless).model_copy(update={"metrics": {"m": estimate}}))
    text = (store.results / f"{put.key}.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = store.get(put.key)
    assert back is not None
    assert back.case.budget.eps == float("inf")
    assert back.case.key == put.key
    assert back.metrics["m"].value != back.metrics["m"].value


@pytest.mark.parametrize("cut", [0, 1, 50, -2])
def test_a_result_file_cut_short_counts_as_absent_and_is_named_damaged(tmp_path, cut):
    store = Store(tmp_path)
    path = store.results / f"{store.put(a_result()).key}.json"
    path.write_bytes(path.read_bytes()[:cut])
    assert store.get(a_case().key) is None
    assert "damaged" in store.doubt(a_case().key)


def test_a_result_of_another_format_version_is_not_used_and_says_so(tmp_path):
    store = Store(tmp_path)
    path = store.results / f"{store.put(a_result()).key}.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "schema_version": 99}))
    assert store.get(a_case().key) is None
    assert "99" in store.doubt(a_case().key)


def test_nothing_is_doubted_where_nothing_is(tmp_path):
    assert Store(tmp_path).doubt(a_case().key) == ""


def test_a_full_disk_leaves_the_old_file_whole_and_says_one_line(tmp_path, monkeypatch):
    store = Store(tmp_path)
    before = (store.results / f"{store.put(a_result()).key}.json").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        store.put(a_result().model_copy(update={"reason": "new"}))
    assert (store.results / f"{a_case().key}.json").read_bytes() == before
    assert [p.name for p in store.results.iterdir()] == [f"{a_case().key}.json"]


def test_a_folder_without_assessment_and_a_damaged_one_say_what_is_wrong(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=r"assessment\.json"):
        store.assessment()
    store.finish(an_assessment())
    (tmp_path / "assessment.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        store.assessment()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="directory"):
        Store(tmp_path / "file")


@pytest.mark.parametrize(
    ("requirement", "successes", "outcome"),
    [
        (Requirement(metric="m", at_least=0.5), 90, "holds"),
        (Requirement(metric="m", at_least=0.5), 10, "falls"),
        (Requirement(metric="m", at_least=0.5), 52, "inconclusive"),
        (Requirement(metric="m", at_most=0.1), 1, "holds"),
        (Requirement(metric="m", at_most=0.1), 60, "falls"),
        (Requirement(metric="m", at_most=0.1), 9, "inconclusive"),
    ],
)
def test_only_an_interval_clear_of_the_requirement_decides(requirement, successes, outcome):
    assert requirement.judge(share(successes, 100)) == outcome


def test_a_number_from_no_rows_decides_nothing():
    assert Requirement(metric="m", at_least=0.0).judge(share(0, 0)) == "inconclusive"
