"""Which verdicts depend on a seed."""

import json

import pytest

from rpa.companion import robustness, run

STEM = "01_moons_noise"
CLAIMS = [
    {"id": "p.low", "stem": STEM, "at_most": 6.0},
    {"id": "p.near", "stem": STEM, "value": 1.0, "tolerance": 0.1},
    {"id": "p.few", "stem": STEM, "at_most": 1.25},
    {"id": "p.none", "stem": "02_y", "at_least": 3.0},
]
CLAIMS = [claim | dict(paper="P1", where="w", statement="s", kind="trend", status="done") for claim in CLAIMS]


def test_the_spread_of_a_claim_and_whether_it_flips(tmp_path, monkeypatch):
    def run_variant(stem, profile, values, folder):
        seed = values["seed"]
        records = {"p.low": {"value": [1.0 + seed, 0.5]}, "p.near": {"value": 1.0 + 0.04 * seed}}
        records["p.few"] = {"value": 0.5 + 0.3 * seed, "error": 0.3 + 0.1 * seed}
        results = folder / str(seed) / "data" / "results"
        results.mkdir(parents=True)
        content = {"stem": stem, "profile": profile, "code": "0" * 12, "packages": {}, "records": records}
        (results / f"{stem}.json").write_text(json.dumps(content))
        return folder / str(seed)

    monkeypatch.setenv("RPA_WORKERS", "1")
    monkeypatch.setattr(robustness, "run_variant", run_variant)
    monkeypatch.setattr(robustness, "load_claims", lambda: CLAIMS)
    low, near, few = robustness.table(tmp_path).itertuples(index=False)
    shown = (low.claim, low.target, low.lowest, low.highest, low.runs, low.met, low.flips)
    assert shown == ("p.low", "≤ 6", 1, 5, 5, 5, False) and low.spread == pytest.approx(2.5**0.5)
    assert near.flips and near.met == 3 and near.highest == pytest.approx(1.16)
    assert not few.flips and few.met == 1 and few.highest == pytest.approx(1.7)  # the others are undecided


def test_a_run_with_its_own_parameters_never_goes_over_the_papers_figures():
    with pytest.raises(ValueError, match="folder: expected one"):
        run.run(STEM, "quick", parameters={"seed": 3})
