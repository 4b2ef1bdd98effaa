"""What a notebook leaves: records, figures and tables, whole or not at all."""

import json
import os
import shutil

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rpa import _files
from rpa.companion import report, run
from rpa.companion.provenance import code_version


@pytest.fixture(autouse=True)
def out(notebook_folder, monkeypatch):
    monkeypatch.delenv("RPA_PARAMETERS")
    return notebook_folder


def _figure():
    report.use_style()
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1], color=report.ANALYTIC)
    return fig


def _stored(out):
    return json.loads((out / "data" / "results" / "01_x.json").read_text())


def test_shrink_picks_by_profile(monkeypatch):
    assert report.shrink("full", 1000, 10) == 1000
    with pytest.raises(ValueError, match="contradict|RPA_PROFILE"):
        report.shrink("quick", 1000, 10)
    for demanded in ("full", "medium"):
        monkeypatch.setenv("RPA_PROFILE", demanded)
        with pytest.raises(ValueError, match="'medium'"):
            report.shrink("medium", 1000, 10)
    monkeypatch.setenv("RPA_PROFILE", "quick")
    assert report.shrink("quick", 1000, 10) == 10


def test_files_are_named_after_the_notebook_and_go_to_its_own_checkout(tmp_path, monkeypatch):
    for name in ("RPA_OUT", "RPA_NOTEBOOK"):
        monkeypatch.delenv(name)
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
    monkeypatch.setenv("RPA_BUILD", "out")  # seen from the checkout, not from where a kernel works
    assert report.output_folder() == tmp_path / "data" / "out" / "lab"
    assert _files.build("full") == _files.ROOT / "out" / "full"


def test_a_record_keeps_exact_numbers_and_their_circumstances(out):
    record = report.Recorder(seed=3, parameters={"sigma": (0.1, 0.2)}, data={"MNIST": "ab12"})
    columns = {"null": 0.5, "ours": [1.01], "on": "100 images", "reached": "0.02 (0.01 to 0.05)"}
    record("b", np.float64(0.1) + 0.2, error=np.float32(0.5), samples=1000, **columns)
    record("a", {"mean": np.arange(2), "ok": True}, seed=4, null=None)
    report.record("c", [1.0, 2.0], varies="retrained", tolerance=0.1)
    stored = _stored(out)
    shared = {"parameters": {"sigma": [0.1, 0.2]}, "data": {"MNIST": "ab12"}}
    expected = {"value": 0.1 + 0.2, "error": 0.5, "varies": "statistical", "seed": 3, "samples": 1000}
    assert list(stored["records"]) == ["a", "b", "c"] and stored["records"]["b"] == expected | columns | shared
    expected = {"value": {"mean": [0, 1], "ok": True}, "varies": "deterministic", "seed": 4}
    assert stored["records"]["a"] == expected | shared
    assert stored["records"]["c"] == {"value": [1.0, 2.0], "tolerance": 0.1, "varies": "retrained"}
    assert stored["profile"] == "full" and stored["code"] == code_version("01_x")
    assert set(stored["packages"]) > {"python", "numpy", "scipy", "torch"}
    assert not any("+" in version for version in stored["packages"].values())


@pytest.mark.parametrize(
    "value, more, message",
    [
        (np.nan, {}, "finite"),
        ([1.0, np.nan], {}, "finite"),
        ({"a": np.array([np.inf])}, {}, "finite"),
        ("text", {}, "expected numbers"),
        (None, {}, "expected numbers"),
        (1.0, {"error": np.nan}, "finite"),
        (1.0, {"null": "nothing"}, "expected numbers"),
        ([], {}, "expected numbers"),
        (1.0, {"error": -0.1}, "error: expected numbers >= 0"),
        ([1.0, 2.0], {"error": [0.1]}, "error: .*one or as in value"),
        (1.0, {"tolerance": {"a": 0.1}}, "tolerance: .*one or as in value"),
        (1.0, {"parameters": {"net": object()}}, "plain values"),
        (1.0, {"varies": "often"}, "varies.*exact, deterministic.*'often'"),
        (1.0, {"varies": "statistical"}, "statistical.*error or a tolerance"),
    ],
)
def test_what_is_no_record_is_refused_by_name(out, value, more, message):
    with pytest.raises(ValueError, match=f"'p1.x'.*{message}"):
        report.record("p1.x", value, **more)
    assert list(out.rglob("*.json")) == []


def test_two_runs_give_the_same_bytes(out):
    def run():
        report.record("a", 1 / 3, data={"MNIST": "ab12"})
        report.save_figure(_figure())
        report.save_table(pd.DataFrame({"p": [1 / 3, 1e-300]}))
        return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = run()
    assert set(first) == {"01_x.json", "01_x.png", "01_x.pdf", "01_x.csv"}
    assert run() == first


def test_records_of_other_code_or_profile_do_not_survive(out, monkeypatch):
    report.record("old", 1)
    report.record("kept", 2)
    assert set(_stored(out)["records"]) == {"old", "kept"}
    monkeypatch.setattr(report, "code_version", lambda stem: "0123456789ab")
    report.record("new", 3)
    assert set(_stored(out)["records"]) == {"new"}
    monkeypatch.setenv("RPA_PROFILE", "quick")
    report.record("quick", 4)
    assert set(_stored(out)["records"]) == {"quick"}


def test_timings_have_a_file_of_their_own(out):
    report.record_timing("a", 0.5)
    report.record_timing("b", {"ours": 1, "theirs": 20})
    assert [path.name for path in (out / "data" / "results").iterdir()] == ["timings"]
    stored = json.loads((out / "data" / "results" / "timings" / "01_x.json").read_text())
    assert stored.pop("machine")["cores"] >= 1 and stored == {"a": 0.5, "b": {"ours": 1, "theirs": 20}}
    with pytest.raises(ValueError, match="'a'.*finite"):
        report.record_timing("a", float("inf"))


def test_a_write_that_fails_leaves_the_old_file(out):
    report.record("a", 1)
    path = out / "data" / "results" / "01_x.json"
    before = path.read_bytes()

    def fail(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _files.replace(path, fail)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    path.with_name(".1.ab.01_x.json").write_text("half")  # as a writer that was killed leaves it
    assert set(report.read_results(path.parent)) == {"01_x"}


@pytest.mark.parametrize("moment", range(4))
def test_a_publication_that_is_stopped_leaves_nothing_that_the_next_one_does_not_delete(tmp_path, monkeypatch, moment):
    label, folder, move = {"profile": "full"}, tmp_path / "build", os.replace

    def publish(*names):
        for name in ("01_x.ipynb", *names):
            path = tmp_path / "stage" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        run._publish(nbformat.v4.new_notebook(), tmp_path / "stage" / "01_x.ipynb", folder, label)

    def stopped(source, target):
        if len(moved) == moment:
            raise KeyboardInterrupt
        moved.append(move(source, target))

    moved = []
    monkeypatch.setattr(run, "label_of", lambda *_: label)
    publish("figures/01_x.csv", "figures/01_x.png", "a")
    assert run.is_current("01_x", "full", folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stopped)
        publish("figures/01_x.pdf", "figures/01_x.png", "a")
    assert not run.is_current("01_x", "full", folder)
    shutil.rmtree(tmp_path / "stage")
    publish("a")
    assert {path.name for path in folder.rglob("*.*")} == {"01_x.ipynb"} and run.is_current("01_x", "full", folder)


def test_figures_name_their_source_and_stand_ins_and_keep_their_layout_engine(out):
    report.record("a", 1, data={"MNIST": "0123456789abcdef"})
    fig = _figure()
    fig.set_layout_engine("constrained")
    engine = fig.get_layout_engine()
    report.save_figure(fig)
    assert fig.get_layout_engine() is engine and fig.texts == []
    with Image.open(out / "figures" / "01_x.png") as image:
        text = image.text["Description"]
    assert text == f"rpa code {code_version('01_x')}; profile full; data: MNIST 0123456789ab"
    pdf = (out / "figures" / "01_x.pdf").read_bytes()
    assert f"rpa code {code_version('01_x')}".encode() in pdf and b"CreationDate" not in pdf
    report.record("b", 1, data={"MNIST STAND-IN": "00"})
    assert _stored(out)["records"]["b"]["stand_in"] is True and "stand_in" not in _stored(out)["records"]["a"]
    report.save_figure(fig)
    assert [t.get_text() for t in fig.texts] == ["STAND-IN DATA"]


def test_table_keeps_a_named_index(out):
    frame = pd.DataFrame({"p": [0.1]}, index=pd.Index(["a"], name="method"))
    report.save_table(frame, "seconds")
    assert (out / "figures" / "01_x_seconds.csv").read_text() == "method,p\na,0.1\n"
