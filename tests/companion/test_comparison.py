"""A rerun held against committed records: what may differ, what may not, and what is missing."""

import json
import math

import pytest

from rpa.companion import comparison
from rpa.companion.provenance import code_version
from rpa.companion.report import ROOT, read_results

STEM = "01_moons_noise"
RECORDS = {
    "sampled": {"value": [1.0, 2.0], "error": [0.1, 0.2], "varies": "statistical"},
    "gap": {"value": 2.36, "varies": "gap"},
    "count": {"value": 120, "varies": "exact"},
    "tiny": {"value": 1e-13, "varies": "exact"},
    "large": {"value": {"slope": 1000.0, "flag": True}, "varies": "deterministic"},
    "fitted": {"value": {"a": 5, "b": 50}, "varies": "retrained", "tolerance": {"a": 1, "b": 10}},
}

WRONG = [{"value": "1"}, {"value": math.nan}, {"value": 1, "null": None}, {"value": 1, "error": ["0"]}]


def _content(records, **changed):
    header = {"stem": STEM, "profile": "full", "code": code_version(STEM)}
    return header | {"packages": {"python": "3.11", "numpy": "2.4.6"}, "records": records} | changed


def _write(folder, content):
    (folder / "data" / "results").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "results" / f"{content['stem']}.json").write_text(json.dumps(content))


@pytest.fixture
def judged(tmp_path):
    def judge(changed, committed=RECORDS, **header):
        _write(tmp_path / "committed", _content(committed))
        _write(tmp_path / "rerun", _content(changed, **header))
        summary, details, agrees = comparison.compare(tmp_path / "rerun", tmp_path / "committed" / "data" / "results")
        return agrees, f"{details}\n{summary}"

    return judge


def _moved(id, **changed):
    return RECORDS | {id: RECORDS[id] | changed}


def test_the_same_numbers_pass_and_one_that_is_off_is_named_and_fails(judged, tmp_path):
    agrees, text = judged(RECORDS)
    assert agrees and "9 of 9 numbers agree with the committed ones" in text
    agrees, text = judged(_moved("large", value={"slope": 1000.1, "flag": True}))
    line = next(line for line in text.splitlines() if " off" in line)
    assert not agrees and "large" in line and "slope" in line and STEM in line and "1 are off or missing" in text
    assert "1 are off" in (tmp_path / "rerun" / "comparison.html").read_text()


def test_a_missing_record_and_a_missing_notebook_fail_by_name(judged, tmp_path):
    agrees, text = judged({id: entry for id, entry in RECORDS.items() if id != "gap"})
    missing = [line for line in text.splitlines() if " missing" in line and "gap" in line]
    assert not agrees and "1 are off or missing" in text and missing
    (tmp_path / "rerun" / "data" / "results" / f"{STEM}.json").unlink()
    agrees, text = judged(RECORDS, stem="02_moons_gmm_classes")
    assert not agrees and f"{STEM}: no records in the new results" in text
    assert "02_moons_gmm_classes: no records committed" in text


def test_a_verdict_that_changes_is_named(judged):
    agrees, text = judged({"p1.lemma1": {"value": 1.0}}, {"p1.lemma1": {"value": 1e-15}})
    assert not agrees and "p1.lemma1: holds (1e-15), now fails (1)" in text


def test_other_code_packages_data_and_profile_are_named(judged):
    records, committed = (_moved("count", data={"MNIST": digest * 32}) for digest in ("ab", "cd"))
    agrees, text = judged(records, committed, code="0123456789ab", packages={"python": "3.11", "numpy": "9.9"})
    assert agrees and "now 0123456789ab" in text and f"numpy: committed 2.4.6, now 9.9 ({STEM})" in text
    assert f"MNIST: committed cdcdcdcdcdcd, now abababababab ({STEM})" in text
    agrees, text = judged(_moved("count", value=7), profile="quick")
    assert agrees and "profile: committed full, now quick" in text and "no number can be compared" in text


def test_a_claim_whose_numbers_are_off_or_missing_has_no_evidence_except_in_another_profile(tmp_path):
    claim = {"id": "x", "stem": STEM, "paper": "P1", "where": "here", "statement": "", "status": "done", "at_most": 9}
    committed = {"value": {"a": 1.0, "b": 2.0}}
    _write(tmp_path / "committed", _content({"x": committed}))
    for value, profile, good in (
        ({"a": 1.0, "b": 2.0}, "full", True),
        ({"a": 1.1, "b": 2.0}, "full", False),
        ({"a": 1.0}, "full", False),
        ({"a": 1.1}, "quick", True),
    ):
        _write(tmp_path / "rerun", _content({"x": {"value": value}}, profile=profile))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(comparison, "ROOT", tmp_path / "committed")
            assert comparison.evidence(claim, tmp_path / "rerun")[1] == good


def test_a_file_that_is_no_record_is_named(judged, tmp_path):
    _write(tmp_path / "rerun", _content(RECORDS))
    path = tmp_path / "rerun" / "data" / "results" / "other.json"
    for text, message in (
        ("{", "run its notebook again"),
        (json.dumps(_content(RECORDS)), "a copy of 01_moons_noise.json"),  # whose numbers nobody made
        (json.dumps({"stem": "other", "profile": "full", "code": ""}), "'packages'"),
        (json.dumps(_content([], stem="other")), "no record file"),
        (json.dumps(_content({"a": {"varies": "exact"}}, stem="other")), "'value'"),
        *((json.dumps(_content({"a": entry}, stem="other")), "'a'.*numbers") for entry in WRONG),
    ):
        path.write_text(text)
        with pytest.raises(OSError, match=rf"other.json.*{message}"):
            judged(RECORDS)
    with pytest.raises(FileNotFoundError, match="make figures"):
        comparison.compare(tmp_path / "nowhere")


def _row(old, new):
    rows = comparison.compare_numbers({STEM: _content({"a": old})}, {STEM: _content({"a": new})})
    assert set(rows.id) == {"a"}
    return rows.set_index("key")


@pytest.mark.parametrize(
    "old, new, limit, allowed",  # the distance that is allowed, as it is documented
    [
        ({"varies": "exact"}, {}, 1.0, lambda value: 1e-9 * max(1, value)),
        ({"varies": "deterministic"}, {}, 1.0, lambda value: 1e-5 * max(1, value)),
        ({}, {}, 1.0, lambda value: 1e-5 * max(1, value)),
        ({"varies": "exact", "tolerance": 1e-3}, {}, 1.0, lambda value: 1e-3 * max(1, value)),
        ({"varies": "gap"}, {}, 6.0, lambda value: 6 * math.hypot(0.5, 0.5)),
        ({"varies": "statistical", "error": 0.3}, {"error": 0.4}, 6.0, lambda value: 6 * 0.5),
        ({"varies": "statistical", "error": 0.3, "tolerance": 3.0}, {"tolerance": 4.0}, 6.0, lambda value: 6 * 5.0),
        ({"varies": "retrained", "tolerance": 2.0}, {}, 6.0, lambda value: 6 * math.hypot(2, 2)),
    ],
)
@pytest.mark.parametrize("value", [0.1, 1000.0])
@pytest.mark.parametrize("key", ["", "null", "ours"])
def test_a_rerun_may_be_off_by_what_its_record_says_and_by_no_more(old, new, limit, allowed, value, key):
    for share, judgement in ((0.99, "agrees"), (1.01, "off"), (-0.99, "agrees"), (-1.01, "off")):
        entry = old | {"value": value, "null": value, "ours": value}
        row = _row(entry, entry | new | {key or "value": value + share * allowed(value)}).loc[key]
        assert row.judgement == judgement and row.limit == limit
        assert row.distance == pytest.approx(abs(share) * limit, rel=0.01)


def test_tolerances_are_those_of_each_number_and_a_number_without_one_must_not_move():
    errors = {"a": 0.1, "c": [1.0, 2.0]}
    old = {"value": {"a": 1.0, "b": 2.0, "c": [3.0, 4.0]}, "error": errors, "varies": "statistical"}
    table = _row(old, old | {"value": {"a": 2.0, "b": 2.0 + 1e-15, "c": [3.0, 4.0, 5.0], "d": 6.0}})
    expected = {"a": "off", "b": "off", "c[0]": "agrees", "c[1]": "agrees", "c[2]": "new", "d": "new"}
    assert dict(table.judgement) == expected and math.isnan(table.committed["d"]) and table.yours["d"] == 6.0
    assert table.distance["a"] == pytest.approx(1 / math.hypot(0.1, 0.1)) and table.distance["b"] == math.inf
    gone = _row(old, old | {"value": {"a": 1.0}})
    assert list(gone.judgement) == ["agrees", "missing", "missing", "missing"] and gone.distance[1:].isna().all()
    contents = {STEM: _content({"a": old})}
    assert set(comparison.compare_numbers(contents, {}).judgement) == {"missing"}
    assert set(comparison.compare_numbers({}, contents).judgement) == {"new"}
    assert len(comparison.compare_numbers(contents, {STEM: _content({"a": old}, profile="quick")})) == 0


def test_the_committed_records_agree_with_themselves():
    committed = read_results(ROOT / "data" / "results")
    numbers = comparison.compare_numbers(committed, committed)
    assert len(numbers) > 500 and set(numbers.judgement) == {"agrees"}
