import json
import tomllib

import numpy as np
import pandas as pd
import pytest

from rpa import _files
from rpa.companion import report, verdicts
from rpa.companion.provenance import code_version


@pytest.fixture(autouse=True)
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("RPA_OUT", str(tmp_path))
    monkeypatch.setenv("RPA_PROFILE", "full")
    return tmp_path


def _figure():
    import matplotlib.pyplot as plt

    report.use_style()
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1], color=report.ANALYTIC)
    return fig


def _stored(out, stem="01_x"):
    return json.loads((out / "data" / "results" / f"{stem}.json").read_text())


def test_shrink_picks_by_profile(monkeypatch):
    assert report.shrink("full", 1000, 10) == 1000
    with pytest.raises(ValueError, match="contradict|RPA_PROFILE"):
        report.shrink("quick", 1000, 10)
    with pytest.raises(ValueError, match="'medium'"):
        report.shrink("medium", 1000, 10)
    monkeypatch.setenv("RPA_PROFILE", "quick")
    assert report.shrink("quick", 1000, 10) == 10


def test_files_are_named_after_the_notebook_and_go_to_its_own_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("RPA_OUT")
    for name in ("data/targets.toml", "notebooks/07_mine.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "notebooks" / "07_mine.ipynb"))
    assert report.output_folder() == tmp_path / "build" / "lab"
    report.record_timing("a", 1.0)
    assert (tmp_path / "build" / "lab" / "data" / "results" / "timings" / "07_mine.json").exists()
    monkeypatch.delenv("JPY_SESSION_NAME")
    monkeypatch.chdir(tmp_path / "data")
    assert report.output_folder() == tmp_path / "build" / "lab"
    (tmp_path / "data" / "targets.toml").unlink()  # no checkout at all: the working directory
    assert report.output_folder() == tmp_path / "data" / "build" / "lab"


def test_record_keeps_exact_numbers_and_their_circumstances(out):
    report.record(
        "b",
        np.float64(0.1) + 0.2,
        stem="01_x",
        error=np.float32(0.5),
        seed=3,
        parameters={"sigma": (0.1, 0.2), "net": "2-16-1"},
        data={"MNIST": "ab12"},
        samples=1000,
    )
    report.record("a", {"mean": np.arange(2), "ok": True}, stem="01_x")
    stored = _stored(out)
    assert list(stored["records"]) == ["a", "b"]
    assert stored["records"]["b"] == {
        "value": 0.1 + 0.2,
        "error": 0.5,
        "seed": 3,
        "parameters": {"sigma": [0.1, 0.2], "net": "2-16-1"},
        "data": {"MNIST": "ab12"},
        "samples": 1000,
        "varies": "statistical",
    }
    assert stored["records"]["a"]["value"] == {"mean": [0, 1], "ok": True}
    assert stored["profile"] == "full" and stored["code"] == code_version("01_x")
    assert set(stored["packages"]) > {"python", "numpy", "scipy", "torch"}
    assert not any("+" in version for version in stored["packages"].values())


def test_a_recorder_shares_seed_parameters_and_data_and_keeps_the_other_columns(out, monkeypatch):
    monkeypatch.setenv("RPA_NOTEBOOK", "01_x.ipynb")
    record = report.Recorder(seed=3, parameters={"sigma": 0.1}, data={"MNIST": "ab12"})
    record("a", 1.0, error=0.1, null=np.float64(0.5), ours=1.01, on="100 images", reached="0.02 (0.01 to 0.05)")
    record("b", [1, 2], seed=4, null=None)
    shared = {"parameters": {"sigma": 0.1}, "data": {"MNIST": "ab12"}}
    columns = {"error": 0.1, "null": 0.5, "ours": 1.01, "on": "100 images", "reached": "0.02 (0.01 to 0.05)"}
    assert _stored(out)["records"] == {
        "a": {"value": 1.0, "varies": "statistical", "seed": 3} | columns | shared,
        "b": {"value": [1, 2], "varies": "deterministic", "seed": 4} | shared,
    }
    with pytest.raises(ValueError, match="'c'.*expected numbers"):
        record("c", 1.0, null="nothing")


def test_a_record_says_how_it_may_vary(out):
    report.record("plain", 1.0, stem="01_x")
    report.record("counted", 3, stem="01_x", varies="exact")
    report.record("fitted", [1.0, 2.0], stem="01_x", varies="retrained", tolerance=0.1)
    said = {id: (entry["varies"], entry.get("tolerance")) for id, entry in _stored(out)["records"].items()}
    assert said == {"plain": ("deterministic", None), "counted": ("exact", None), "fitted": ("retrained", 0.1)}
    with pytest.raises(ValueError, match="'a'.*varies.*exact, deterministic.*'often'"):
        report.record("a", 1.0, stem="01_x", varies="often")
    with pytest.raises(ValueError, match="'a'.*statistical.*error or a tolerance"):
        report.record("a", 1.0, stem="01_x", varies="statistical")


def test_two_runs_give_the_same_bytes(out):
    def run():
        report.record("a", 1 / 3, stem="01_x", data={"MNIST": "ab12"})
        report.save_figure(_figure(), "01_x")
        report.save_table(pd.DataFrame({"p": [1 / 3, 1e-300]}), stem="01_x")
        return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = run()
    assert set(first) == {"01_x.json", "01_x.png", "01_x.pdf", "01_x.csv"}
    assert run() == first


@pytest.mark.parametrize("bad", [np.nan, np.inf, [1.0, np.nan], {"a": np.array([np.inf])}, "text", None])
def test_only_finite_numbers_are_recorded(out, bad):
    with pytest.raises(ValueError, match="'p1.x'"):
        report.record("p1.x", bad, stem="01_x")
    assert list(out.rglob("*.json")) == []


def test_error_and_parameters_are_checked_too():
    with pytest.raises(ValueError, match="'a'.*finite"):
        report.record("a", 1.0, stem="01_x", error=float("nan"))
    with pytest.raises(ValueError, match="'a'.*plain values"):
        report.record("a", 1.0, stem="01_x", parameters={"net": object()})
    with pytest.raises(ValueError, match="'a'.*finite"):
        report.record_timing("a", float("inf"), stem="01_x")


def test_records_of_other_code_or_profile_do_not_survive(out, monkeypatch):
    report.record("old", 1, stem="01_x")
    report.record("kept", 2, stem="01_x")
    assert set(_stored(out)["records"]) == {"old", "kept"}
    monkeypatch.setattr(report, "code_version", lambda stem: "0123456789ab")
    report.record("new", 3, stem="01_x")
    assert set(_stored(out)["records"]) == {"new"}
    monkeypatch.setenv("RPA_PROFILE", "quick")
    report.record("quick", 4, stem="01_x")
    assert set(_stored(out)["records"]) == {"quick"}


def test_timings_live_apart(out):
    report.record_timing("a", 0.5, stem="01_x")
    report.record_timing("b", {"ours": 1, "theirs": 20}, stem="01_x")
    assert [path.name for path in (out / "data" / "results").iterdir()] == ["timings"]
    stored = json.loads((out / "data" / "results" / "timings" / "01_x.json").read_text())
    assert stored == {"a": 0.5, "b": {"ours": 1, "theirs": 20}}


def test_a_write_that_fails_leaves_the_old_file(out):
    report.record("a", 1, stem="01_x")
    path = out / "data" / "results" / "01_x.json"
    before = path.read_bytes()

    def fail(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _files.replace(path, fail)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_figures_say_where_they_come_from(out):
    from PIL import Image

    report.record("a", 1, stem="01_x", data={"MNIST": "0123456789abcdef"})
    report.save_figure(_figure(), "01_x")
    with Image.open(out / "figures" / "01_x.png") as image:
        text = image.text["Description"]
    assert text == f"rpa code {code_version('01_x')}; profile full; data: MNIST 0123456789ab"
    pdf = (out / "figures" / "01_x.pdf").read_bytes()
    assert f"rpa code {code_version('01_x')}".encode() in pdf and b"CreationDate" not in pdf


def test_a_saved_figure_keeps_its_layout_engine(out):
    fig = _figure()
    fig.set_layout_engine("constrained")
    engine = fig.get_layout_engine()
    report.save_figure(fig, "01_x")
    assert fig.get_layout_engine() is engine


def test_stand_in_data_mark_record_and_figure(out):
    report.record("a", 1, stem="01_x", data={"MNIST STAND-IN": "00"})
    assert _stored(out)["records"]["a"]["stand_in"] is True
    fig = _figure()
    report.save_figure(fig, "01_x")
    assert [t.get_text() for t in fig.texts] == ["STAND-IN DATA"]
    report.record("a", 1, stem="02_x", data={"MNIST": "00"})
    fig = _figure()
    report.save_figure(fig, "02_x")
    assert fig.texts == []


def test_table_keeps_a_named_index(out):
    frame = pd.DataFrame({"p": [0.1]}, index=pd.Index(["a"], name="method"))
    report.save_table(frame, "seconds", stem="01_x")
    assert (out / "figures" / "01_x_seconds.csv").read_text() == "method,p\na,0.1\n"


CLAIM = {
    "id": "p1.a",
    "paper": "P1",
    "where": "figure 1",
    "statement": "s",
    "kind": "value",
    "stem": "01_x",
    "status": "done",
}


def _verdict(number, profile="full", stand_in=False, **claim):
    entry = {"value": number, "profile": profile, "stand_in": stand_in, "code": code_version("01_x")}
    return verdicts.judge(CLAIM | claim, {("01_x", "p1.a"): entry})["verdict"]


def test_verdicts():
    assert _verdict(1.04, value=1.0, tolerance=0.05) == "holds"
    assert _verdict(1.06, value=1.0, tolerance=0.05) == "fails"
    assert _verdict(1.06, value=1.0, tolerance=0.05, explanation="because") == "does not reproduce"
    assert _verdict(6.0, at_most=6.0) == "holds"
    assert _verdict(6.1, at_most=6.0) == "fails"
    assert _verdict([0.99, 1.2], at_least=1.0) == "fails"
    assert _verdict({"a": 1.0, "b": [1.2, 3]}, at_least=1.0) == "holds"
    assert _verdict(True, value=True) == "holds"
    assert _verdict(False, value=True) == "fails"
    assert _verdict(6.1, at_most=6.0, status="pending") == "pending"
    assert verdicts.judge(CLAIM | {"at_most": 1.0}, {})["verdict"] == "no record"


def test_a_claim_that_needs_what_is_not_here_is_not_measured():
    claim = CLAIM | {"at_most": 1.0, "needs": "weights under a licence"}
    row = verdicts.judge(claim, {})
    assert (row["verdict"], row["note"]) == ("not measured", "needs weights under a licence")
    assert "not measured — needs weights" in verdicts.text_table([row])
    assert "](notebooks/01_x.ipynb): needs weights under a licence |" in verdicts.markdown_table([row], [claim])
    assert _verdict(2.0, at_most=1.0, needs="weights") == "fails"


def test_a_row_says_what_it_was_measured_on():
    parameters = {"networks": ["a", "b"], "images": [3, 1, 4], "n_fresh": 1000, "n_counted": [10, 2000], "seed": 5}
    entry = {"value": 1, "profile": "full", "code": "0", "parameters": parameters}
    row = verdicts.judge(CLAIM | {"at_most": 2.0}, {("01_x", "p1.a"): entry})
    assert row["on"] == "2 networks, 3 images, 2,000 samples"
    entry["parameters"] = {"network": "a", "images": 100}
    assert verdicts.judge(CLAIM | {"at_most": 2.0}, {("01_x", "p1.a"): entry})["on"] == "1 network, 100 images"
    assert verdicts.judge(CLAIM | {"at_most": 2.0}, {})["on"] == ""


def test_quick_and_stand_in_numbers_settle_nothing():
    assert _verdict(1, at_most=2.0, profile="quick") == "holds (quick profile)"
    assert _verdict(3, at_most=2.0, stand_in=True) == "fails (stand-in data)"


def test_a_number_of_other_code_or_parameters_is_not_judged(tmp_path, monkeypatch):
    claim, results = CLAIM | {"at_most": 2.0}, tmp_path / "data" / "results"
    verdict = lambda: verdicts.judge(claim, verdicts.current_records(results))["verdict"]
    monkeypatch.setenv("RPA_PARAMETERS", "{}")
    report.record("p1.a", 1, stem="01_x")
    assert verdict() == "holds"
    monkeypatch.setenv("RPA_PARAMETERS", '{"n_samples": 3}')
    report.record("p1.a", 1, stem="01_x")
    assert verdict() == "other parameters"
    monkeypatch.delenv("RPA_PARAMETERS")
    report.record("p1.a", 1, stem="01_x")
    assert verdict() == "other parameters"
    monkeypatch.setattr(verdicts, "code_version", lambda stem: "000000000000")
    assert verdict() == "older code"


def test_a_row_puts_the_claim_beside_our_number(tmp_path):
    report.record("p1.a", [0.95, 1.125], stem="01_x")
    report.record("p1.b", 2.0, stem="01_x", error=0.25)
    targets = tmp_path / "targets.toml"
    extra = CLAIM | {"id": "p1.b", "kind": "trend"}
    blocks = [CLAIM | {"at_most": 1.0}, extra | {"at_least": 1.5}, CLAIM | {"id": "p1.c", "status": "pending"}]
    toml = "\n".join("[[claim]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in block.items()) for block in blocks)
    targets.write_text(toml)
    records = report.load_records(tmp_path / "data" / "results")
    rows = [verdicts.judge(claim, records) for claim in verdicts.load_claims(targets)]
    assert [row["id"] for row in rows] == ["p1.a", "p1.b", "p1.c"]
    assert [row["target"] for row in rows] == ["≤ 1", "≥ 1.5", ""]
    assert [row["ours"] for row in rows] == ["0.95 … 1.125", "2 ± 0.2", ""]
    assert [row["verdict"] for row in rows] == ["fails", "holds", "pending"]
    assert verdicts.one_line(rows) == "1 of 2 measured claims of the papers hold"


def test_a_claim_is_answered_by_its_own_notebook_only(tmp_path):
    report.record("p1.a", 1, stem="01_x")
    report.record("p1.a", 2, stem="02_x")
    records = report.load_records(tmp_path / "data" / "results")
    assert [records[stem, "p1.a"]["value"] for stem in ("01_x", "02_x")] == [1, 2]
    assert verdicts.judge(CLAIM | {"at_most": 1}, records)["verdict"] == "holds"
    assert verdicts.judge(CLAIM | {"at_most": 1, "stem": "03_x"}, records)["verdict"] == "no record"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "guess"}, "unknown kind"),
        ({"paper": "P3"}, "expected the paper P1, P2 or"),
        ({"status": "finished"}, "status"),
        ({"stem": None}, "stem"),
        ({"at_least": 1}, "expected one of"),
        ({"at_most": None}, "expected one of"),
        ({"rival": "sampling"}, "P1 has no rival"),
        ({"paper": verdicts.BEYOND, "null": "counting"}, "beyond the papers has no null"),
        ({"null": "counting", "no_null": "exact"}, "expected null or no_null, got both"),
        ({"target_by": "them"}, "target_by: expected 'paper' or 'us', got 'them'"),
    ],
)
def test_a_malformed_claim_is_named(tmp_path, change, message):
    claim = {k: v for k, v in (CLAIM | {"at_most": 1} | change).items() if v is not None}
    path = tmp_path / "targets.toml"
    path.write_text("[[claim]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in claim.items()))
    with pytest.raises(ValueError, match=f"'p1.a'.*{message}"):
        verdicts.load_claims(path)


def test_verify_fails_only_for_a_finished_claim_that_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("RPA_PARAMETERS", "{}")
    report.record("p1.a", 2.0, stem="01_x")

    def verify(**claim):
        claims = [CLAIM | {"at_most": 1.0} | claim]
        monkeypatch.setattr(verdicts, "load_claims", lambda: claims)
        return verdicts.verify(tmp_path / "data" / "results")

    text, good = verify()
    assert not good and "FAILED: p1.a" in text
    assert verify(status="pending")[1]
    text, good = verify(explanation="their network is not published")
    assert good and "their network is not published" in text
    assert verify(at_most=2.0)[1]
    text, good = verify(id="p1.missing")
    assert not good and "no record yet: p1.missing; run make figures" in text
    assert verify(id="p1.missing", needs="a file")[1]


def test_readme_is_written_between_its_markers(tmp_path):
    readme, (table, end), (times, last) = tmp_path / "README.md", verdicts.MARKERS, verdicts.TIME_MARKERS
    readme.write_text(f"before\n{table}\nold\n{end}\nmiddle\n{times}\n{last}\nafter\n")
    expected = f"before\n{table}\nnew\n{end}\nmiddle\n{times}\nthree minutes\n{last}\nafter\n"
    assert verdicts.write_readme(readme, "new", "three minutes") == expected
    readme.write_text("no markers")
    with pytest.raises(ValueError, match=r"README.md: expected the lines"):
        verdicts.write_readme(readme, "new", "three minutes")


def test_times_name_the_machine_and_the_longest(tmp_path):
    assert verdicts.times(tmp_path) == "No run has been timed yet."
    machine = {"system": "Linux", "processor": "Abacus", "cores": 2}
    for stem, seconds in (("01_a", 30), ("02_b", 90), ("03_c", 600), ("04_d", 60)):
        (tmp_path / f"{stem}.json").write_text(json.dumps({"notebook": {"seconds": seconds, "machine": machine}}))
    (tmp_path / "05_e.json").write_text("{}")
    text = verdicts.times(tmp_path)
    assert text.startswith("The committed numbers took 13 minutes") and "Abacus (2 cores, Linux)" in text
    assert "the longest are 03 (10.0), 02 (1.5), 04 (1.0)." in text


def test_the_reasons_stand_below_the_table():
    claims = [CLAIM | {"at_most": 1.0, "explanation": "because"}]
    entry = {"value": 2, "profile": "full", "code": "0"}
    table = verdicts.markdown_table([verdicts.judge(claims[0], {("01_x", "p1.a"): entry})], claims)
    assert table.startswith("1 does not reproduce.\n")
    assert "[does not reproduce](notebooks/01_x.ipynb)" in table and table.endswith("- P1, figure 1: because")


def test_our_own_claims_stand_apart(monkeypatch):
    claims = [CLAIM | {"at_most": 1.0}, CLAIM | {"id": "ours.a", "paper": verdicts.BEYOND, "at_most": 3.0}]
    entry = {"value": 2, "profile": "full", "code": "0"}
    records = {("01_x", "p1.a"): entry, ("01_x", "ours.a"): entry}
    table = verdicts.markdown_table([verdicts.judge(claim, records) for claim in claims], claims)
    first, second = table.split("\n\nBeyond the papers, claims of our own: 1 holds.\n\n")
    assert first.startswith("1 fails.") and "| P1 |" in first and "| P1 |" not in second and "| beyond |" in second
    monkeypatch.setattr(verdicts, "load_claims", lambda: claims)
    monkeypatch.setattr(verdicts, "current_records", lambda folder: records)
    shown = verdicts.verify()[0]
    assert shown.index("p1.a") < shown.index("beyond the papers") < shown.index("ours.a")
    assert "1 claims: 1 fails; 1 of our own: 1 holds" in shown


def test_every_claim_of_both_papers_is_listed():
    claims = verdicts.load_claims()
    ids = {claim["id"] for claim in claims}
    assert len([i for i in ids if i.startswith("p1.")]) >= 15 and len([i for i in ids if i.startswith("p2.")]) >= 19
    top = tomllib.loads((report.ROOT / "data" / "targets.toml").read_text())
    published = {c["id"]: c.get("value") for c in top["claim"]}
    table = [published[f"p2.alexnet.topk{k}"] for k in range(1, 6)]
    assert table == [98.30, 95.31, 91.16, 86.09, 80.51]


def test_committed_records_and_readme_agree():
    """The README shows what data/results and targets.toml say, and no finished claim fails."""
    claims, records = verdicts.load_claims(), report.load_records()
    rows = [verdicts.judge(claim, records) for claim in claims]
    text = (report.ROOT / "README.md").read_text()
    shown = text.partition(verdicts.MARKERS[0])[2].partition(verdicts.MARKERS[1])[0]
    assert shown.strip() == verdicts.markdown_table(rows, claims)
    assert "The committed numbers took" in text.partition(verdicts.TIME_MARKERS[0])[2]
    assert [row["id"] for row in rows if row["verdict"] in ("fails", "no record")] == []
    assert {record["profile"] for record in records.values()} <= {"full"}
