"""What decides which verdict a reader sees, and RESULTS.md: every rule just inside and just outside its limit."""

import json

import pytest
from jinja2 import UndefinedError

from rpa._files import ROOT
from rpa.companion import report, results, verdicts

CLAIM = {"id": "p1.a", "paper": "P1", "where": "figure 1, PMF", "statement": "s"}
CLAIM |= {"kind": "value", "stem": "01_x", "status": "done"}
CLAIMS = verdicts.load_claims()
OURS = {"paper": verdicts.OWN, "id": "ours.a"}


def _row(value, claim, **entry):
    claim = CLAIM | claim
    entry = {"value": value, "profile": "full", "code": "0"} | entry
    return verdicts.judge(claim, {("01_x", claim["id"]): entry})


@pytest.mark.parametrize(
    "target, value, worst, verdict",
    [
        ({"at_most": 6.0}, [1.0, 6.0], 6.0, "holds"),
        ({"at_most": 6.0}, {"a": 1.0, "b": [6.1, 2.0]}, 6.1, "fails"),
        ({"at_least": 0.9}, [0.9, 1.0], 0.9, "holds"),
        ({"at_least": 0.9}, [0.8, 5.0], 0.8, "fails"),
        ({"value": 1.0, "tolerance": 0.25}, [0.75, 1.125], 0.75, "holds"),
        ({"value": 1.0, "tolerance": 0.25}, [0.875, 1.5], 1.5, "fails"),
        ({"value": 7}, [7, 7], 7, "holds"),
        ({"value": 7}, 6, 6, "fails"),
        ({"value": True}, True, True, "holds"),
        ({"at_most": 6.0, "explanation": "because"}, 7, 7, "does not reproduce"),
        ({"at_most": 6.0, "explanation": "because"} | OURS, 7, 7, "fails"),
        ({"at_most": 6.0, "status": "pending"}, 7, 7, "pending"),
    ],
)
def test_a_claim_is_judged_by_its_worst_number(target, value, worst, verdict):
    assert verdicts.worst(CLAIM | target, value) == worst
    assert _row(value, target)["verdict"] == verdict


@pytest.mark.parametrize(
    "target, value, error, verdict",
    [
        ({"at_most": 6.0}, 5.79, 0.1, "holds"),
        ({"at_most": 6.0}, 5.81, 0.1, "undecided"),
        ({"at_most": 6.0}, 6.19, 0.1, "undecided"),
        ({"at_most": 6.0}, 6.21, 0.1, "fails"),
        ({"at_least": 0.9}, 0.91, 0.01, "undecided"),
        ({"value": 1.0, "tolerance": 0.25}, [1.0, 1.2], [0.01, 0.03], "undecided"),
        ({"value": 1.0, "tolerance": 0.25}, [1.0, 0.8], 0.03, "undecided"),
        ({"value": 1.0, "tolerance": 0.25}, {"a": 1.2, "b": 1.5}, {"a": 0.1, "b": 0.1}, "fails"),
        ({"at_least": 1.0}, 1.0, 0.0, "holds"),
    ],
)
def test_a_number_within_two_errors_of_its_target_decides_nothing(target, value, error, verdict):
    assert _row(value, target, error=error)["verdict"] == verdict


@pytest.mark.parametrize(
    "target, value, error, text",
    [
        ({"at_least": 1.0}, 1.0000845, 7.0e-6, "1.000085 ± 0.000007"),
        ({"at_least": 1.0}, 0.99999, None, "0.99999"),
        ({"at_least": 1.0}, 1.0000001, None, "1.0000001"),
        ({"at_most": 1e-9}, 7.105e-15, None, "7.105e-15"),
        ({"value": 1.0}, 1, None, "1"),
        ({"at_least": 0}, 13.43, 1.24, "13.4 ± 1.2"),
        ({"at_least": 0}, 9133.2, 340.0, "9133 ± 3e+02"),
        ({"at_least": 1.0}, 0.99999999, 1e-12, "0.99999999 ± 1e-12"),
        ({"at_least": 0}, 1.5e-30, 2e-32, "1.5e-30 ± 2e-32"),
        ({"at_most": 3}, [0.95, 3.00001], None, "0.95 … 3.00001"),
        ({"value": True}, True, None, "yes"),
        ({"at_least": 0}, {"a": 1.0, "b": 1.0}, {"b": 0.1}, "1.00 ± 0.10"),
    ],
)
def test_a_number_shows_on_which_side_of_its_target_it_lies(target, value, error, text):
    entry = {} if error is None else {"error": error}
    assert _row(value, target, **entry)["measured"] == text


def test_a_row_has_three_columns_and_their_names():
    claim = {"at_least": 0.9, "target_by": "us", "method": "pruning", "null": "counting"}
    row = _row([0.95, 0.99], claim, null=[0.92, 1.0], ours=0.999, on="2 images", reached="0.1 (0.05 to 0.2)")
    shown = [row[key] for key in ("target", "flip", "measured", "null", "ours", "method", "null_name", "on", "reached")]
    names = ["pruning", "counting", "2 images", "0.1 (0.05 to 0.2)"]
    assert shown == ["≥ 0.9", "0.95", "0.95 … 0.99", "0.92 … 1", "0.999", *names]
    assert row["null_meets"] and not _row(0.95, claim, null=[0.8, 1.0])["null_meets"]
    assert not _row(0.95, claim)["null_meets"] and _row(0.95, {"at_least": 0.9})["flip"] == ""
    assert _row(1.06, {"value": 1.0, "tolerance": 0.05, "target_by": "us"})["flip"] == "± 0.06"
    assert _row(1.0, {"at_least": 0.9, "no_null": "exact"})["null_name"] == "exact"
    assert _row(1.0, OURS | {"at_least": 0.9, "rival": "sampling"}, null=0.95)["null_meets"]


def test_what_is_not_measured_and_what_settles_nothing():
    claim = CLAIM | {"at_most": 1.0, "needs": "weights under a licence"}
    row = verdicts.judge(claim, {})
    assert (row["verdict"], row["note"]) == ("not measured", "needs weights under a licence")
    assert "not measured  needs weights" in verdicts.text_table([row])
    assert _row(2.0, claim)["verdict"] == "fails"
    assert verdicts.judge(CLAIM | {"at_most": 1.0}, {})["verdict"] == "no record"
    assert _row(1, claim, profile="quick")["verdict"] == "holds (quick profile)"
    assert _row(3, claim, stand_in=True)["verdict"] == "fails (stand-in data)"


@pytest.fixture
def out(notebook_folder):
    return notebook_folder / "data" / "results"


def test_a_number_of_other_code_or_parameters_is_not_judged(out, monkeypatch):
    verdict = lambda: verdicts.judge(CLAIM | {"at_most": 2.0}, verdicts.current_records(out))["verdict"]
    for parameters, expected in (("{}", "holds"), ('{"n_samples": 3}', "other parameters"), ("", "other parameters")):
        monkeypatch.setenv("RPA_PARAMETERS", parameters)
        report.record("p1.a", 1)
        assert verdict() == expected
    monkeypatch.setattr(verdicts, "code_version", lambda stem: "000000000000")
    monkeypatch.setattr(verdicts, "notebooks", lambda: {"01_x": "with parameters that nobody can read"})
    assert verdict() == "older code"


def test_a_claim_is_answered_by_its_own_notebook_only(out, monkeypatch):
    for stem, number in (("01_x", 1), ("02_x", 2)):
        monkeypatch.setenv("RPA_NOTEBOOK", f"{stem}.ipynb")
        report.record("p1.a", number)
    for stem, verdict in (("01_x", "holds"), ("02_x", "fails"), ("03_x", "no record")):
        claim = CLAIM | {"at_most": 1, "stem": stem}
        assert verdicts.judge(claim, report.load_records(out))["verdict"] == verdict


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "guess"}, "kind: expected one of"),
        ({"paper": "P3"}, "paper: expected one of"),
        ({"status": "finished"}, "status: expected one of"),
        ({"target_by": "them"}, "target_by: expected one of"),
        ({"stem": None}, "expected the key stem too"),
        ({"at_least": 1}, "expected one of value, at_most, at_least"),
        ({"at_most": None}, "expected one of value, at_most, at_least"),
        ({"rival": "sampling"}, "P1 has no rival"),
        ({"paper": verdicts.OWN, "null": "counting"}, "beyond the papers has no null"),
        ({"null": "counting", "no_null": "exact"}, "expected null or no_null, got both"),
        ({"paper": None, "rival": "sampling"}, "expected the key paper too"),
        ({"at_most": "1"}, "at_most: expected a number, got '1'"),
    ],
)
def test_a_malformed_claim_is_named(tmp_path, change, message):
    claim = {k: v for k, v in (CLAIM | {"at_most": 1} | change).items() if v is not None}
    path = tmp_path / "targets.toml"
    path.write_text("\n".join(["[[claim]]", *(f"{k} = {json.dumps(v)}" for k, v in claim.items())]))
    with pytest.raises(ValueError, match=f"'p1.a'.*{message}"):
        verdicts.load_claims(path)
    for text in ("", "<<<<<<< HEAD"):
        path.write_text(text)
        with pytest.raises(ValueError, match="targets.toml: expected"):
            verdicts.load_claims(path)


def test_verify_fails_only_for_a_finished_claim_that_fails(out, monkeypatch):
    report.record("p1.a", 2.0)

    def verify(**claim):
        monkeypatch.setattr(verdicts, "load_claims", lambda: [CLAIM | {"at_most": 1.0} | claim])
        return verdicts.verify(out)

    text, good = verify()
    assert not good and "FAILED: p1.a" in text
    assert verify(status="pending")[1] and verify(at_most=2.0)[1]
    for paper in ("P1", verdicts.OWN):
        text, good = verify(paper=paper, explanation="their network is not published")
        assert good and "their network is not published" in text
    text, good = verify(id="p1.missing")
    assert not good and "no record yet: p1.missing; run make figures" in text
    assert verify(id="p1.missing", needs="a file")[1]


ROWS = [
    _row(2, {"at_most": 1.0, "explanation": "because", "method": "pruning"}),
    _row(2, {"at_most": 3.0, "id": "p2.lenet.mean", "paper": "P2", "where": "theorem 1", "null": "plain pass"}, null=1),
    _row(2, {"at_most": 3.0, "id": "p1.table.mnist", "where": "support table, MNIST"}),
    _row(2, {"at_most": 2.1, "id": "p1.table.fashion", "where": "support table, Fashion"}, error=0.1, reached="0.1"),
    verdicts.judge(CLAIM | {"at_most": 1, "id": "p1.b", "where": "figure 2", "needs": "a file"}, {}),
    _row(2, OURS | {"at_most": 1.0, "rival": "sampling", "explanation": "reasons"}, null=5, on="3 images"),
]


def test_the_summary_counts_in_english():
    text = "4 of 5 measured: 2 hold (1 of them by the null too), 1 does not reproduce, 1 undecided"
    assert verdicts.one_line(ROWS) == f"claims of the papers, {text}; of our own, 1 of 1 measured: 1 fails"
    assert verdicts.one_line(ROWS[:1] * 2) == "claims of the papers, 2 of 2 measured: 2 do not reproduce"


def test_results_begin_with_what_fails_and_what_the_null_meets(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROBUSTNESS", tmp_path / "robustness.csv")
    results.ROBUSTNESS.write_text("claim,target,lowest,highest,runs,met,flips\np1.table.mnist,≤ 3,1,4,5,4,True\n")
    text = results.page(ROWS)
    fails, undecided, null, papers, ours = (
        text.index(words) for words in ("**P1, figure 1, PMF**", "**P1, support table, Fashion**", "| P2 | theorem 1 |",
                                        "### P1: figures", "## Claims of our own")
    )  # fmt: skip
    assert fails < undecided < null < papers < ours
    assert "Target ≤ 1; pruning 2. because\n" in text and "Not measured: 1, needs a file." in text
    assert "| ≤ 3 | 2 | 1<br>plain pass |  |  | [holds](notebooks/01_x.ipynb), met by the null too |" in text
    assert "[undecided](notebooks/01_x.ipynb)<br>holds up to 0.1 |" in text
    assert "[holds](notebooks/01_x.ipynb) † |" in text and "| p1.table.mnist | ≤ 3 | 1 | 4 | 4 of 5 runs |" in text
    assert "Of 1 claims 1 met the target" in text
    assert "| ≤ 1 | 2 | 5<br>sampling | 3 images | [fails](notebooks/01_x.ipynb) |" in text[ours:]
    assert "On LeNet the fitted slope of the mean is 2 by" in text
    with pytest.raises(UndefinedError, match="lenet"):
        results.page(ROWS[:1])


def test_two_lines_of_readme_are_written_between_their_markers():
    marked = "a\n<!-- {0}: written by make accept -->\n{1}\n<!-- end of {0} -->\nb\n"
    text = results.readme(marked.format("summary", "old") + marked.format("times", ""), ROWS, "three minutes")
    expected = "Claims of the papers, 4 of 5 measured: 2 hold"
    assert text.startswith(marked.format("summary", expected)[:80])
    assert text.endswith(marked.format("times", "three minutes"))
    with pytest.raises(ValueError, match=r"README.md: expected the lines"):
        results.readme("no markers", ROWS, "three minutes")


def test_times_name_the_machine_and_the_longest(tmp_path):
    machine = {"system": "Linux", "processor": "Abacus", "cores": 2}
    for stem, seconds in (("01_a", 30), ("02_b", 90), ("03_c", 600), ("04_d", 60)):
        (tmp_path / f"{stem}.json").write_text(json.dumps({"notebook": seconds, "machine": machine, "x": 1}))
    text = results.times(tmp_path)
    assert text.startswith("The committed numbers took 13 minutes") and "Abacus (2 cores, Linux)" in text
    assert "the longest are 03 (10.0), 02 (1.5), 04 (1.0)." in text


def test_every_claim_of_both_papers_is_listed():
    published = {claim["id"]: claim.get("value") for claim in CLAIMS}
    assert len([i for i in published if i.startswith("p1.")]) >= 15
    assert len([i for i in published if i.startswith("p2.")]) >= 19
    table = [published[f"p2.alexnet.topk{k}"] for k in range(1, 6)]
    assert table == [98.30, 95.31, 91.16, 86.09, 80.51]


@pytest.mark.parametrize("claim", CLAIMS, ids=[claim["id"] for claim in CLAIMS])
def test_every_claim_of_a_paper_names_its_method_and_its_null_and_is_recorded_with_them(claim):
    """Judged by the paper's own method, beside what ignores the noise or is free, or with the reason why nothing is."""
    if claim["paper"] != verdicts.OWN:
        assert claim.get("method") and (claim.get("null") or claim.get("no_null"))
    entry = report.load_records().get((claim["stem"], claim["id"]))
    if claim["status"] == "done" and (entry or "needs" not in claim):
        assert entry and entry.get("on"), "the record says what it was measured on"
        assert ("null" in entry) == ("null" in claim) or claim["paper"] == verdicts.OWN


def test_committed_records_results_and_readme_agree():
    """RESULTS.md and README.md show what data/results and targets.toml say, and no finished claim fails."""
    records = report.load_records()
    rows = [verdicts.judge(claim, records) for claim in CLAIMS]
    assert (ROOT / "RESULTS.md").read_text() == results.page(rows)
    text = (ROOT / "README.md").read_text()
    assert results.readme(text, rows, results.times(ROOT / "data" / "results" / "timings")) == text
    assert [row["id"] for row in rows if row["verdict"] in ("fails", "no record") and not row["explanation"]] == []
    assert {record["profile"] for record in records.values()} <= {"full"}
