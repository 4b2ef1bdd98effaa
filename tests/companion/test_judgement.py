"""What decides which verdict and which judgement a reader sees: every rule just inside and just outside its limit."""

import math

import pytest

from rpa.companion import comparison, verdicts


def _content(entry, profile="full"):
    return {"stem": "01_x", "profile": profile, "records": {"a": entry}}


def _rows(old, new):
    return comparison.compare_numbers({"01_x": _content(old)}, {"01_x": _content(new)})


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
def test_a_rerun_may_be_off_by_what_its_record_says_and_by_no_more(old, new, limit, allowed, value):
    for share, judgement in ((0.99, "agrees"), (1.01, "off"), (-0.99, "agrees"), (-1.01, "off")):
        entry = old | {"value": value}
        row = _rows(entry, entry | new | {"value": value + share * allowed(value)}).iloc[0]
        assert row.judgement == judgement and row.limit == limit
        assert row.distance == pytest.approx(abs(share) * limit, rel=0.01)


def test_tolerances_are_those_of_each_number_and_a_number_without_one_must_not_move():
    old = {
        "value": {"a": 1.0, "b": 2.0, "c": [3.0, 4.0]},
        "error": {"a": 0.1, "c": [1.0, 2.0]},
        "varies": "statistical",
    }
    table = _rows(old, old | {"value": {"a": 2.0, "b": 2.0 + 1e-15, "c": [3.0, 4.0, 5.0], "d": 6.0}}).set_index("key")
    assert dict(table.judgement) == {
        "a": "off", "b": "off", "c[0]": "agrees", "c[1]": "agrees", "c[2]": "new", "d": "new"
    }  # fmt: skip
    assert table.distance["a"] == pytest.approx(1 / math.hypot(0.1, 0.1)) and table.distance["b"] == math.inf
    assert (table.committed["d"], table.yours["d"]) == (None, 6.0) or math.isnan(table.committed["d"])
    gone = _rows(old, old | {"value": {"a": 1.0}})
    assert list(gone.judgement) == ["agrees", "missing", "missing", "missing"] and gone.distance[1:].isna().all()
    assert set(comparison.compare_numbers({"01_x": _content(old)}, {}).judgement) == {"missing"}
    assert set(comparison.compare_numbers({}, {"01_x": _content(old)}).judgement) == {"new"}
    assert len(comparison.compare_numbers({"01_x": _content(old)}, {"01_x": _content(old, "quick")})) == 0


@pytest.mark.parametrize(
    "claim, value, number, holds",
    [
        ({"at_most": 6.0}, [1.0, 6.0], 6.0, True),
        ({"at_most": 6.0}, {"a": 1.0, "b": [6.1, 2.0]}, 6.1, False),
        ({"at_least": 0.9}, [0.9, 1.0], 0.9, True),
        ({"at_least": 0.9}, [0.8, 5.0], 0.8, False),
        ({"value": 1.0, "tolerance": 0.25}, [0.75, 1.125], 0.75, True),
        ({"value": 1.0, "tolerance": 0.25}, [0.875, 1.5], 1.5, False),
        ({"value": 7}, [7, 7], 7, True),
        ({"value": 7}, 6, 6, False),
    ],
)
def test_a_claim_is_judged_by_its_worst_number(claim, value, number, holds):
    assert verdicts.worst(claim, value) == number
    claim = claim | {"id": "a", "paper": "P1", "where": "w", "statement": "s", "stem": "01_x", "status": "done"}
    entry = {"value": value, "profile": "full", "code": "0"}
    assert verdicts.judge(claim, {("01_x", "a"): entry})["verdict"] == ("holds" if holds else "fails")
