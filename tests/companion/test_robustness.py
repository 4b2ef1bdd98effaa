"""Which verdicts hang on a seed: the table, and what README shows of it."""

import json

import pytest

from rpa.companion import robustness, run, verdicts

CLAIMS = [
    {"id": "p.low", "stem": "01_x", "at_most": 6.0},
    {"id": "p.near", "stem": "01_x", "value": 1.0, "tolerance": 0.1},
    {"id": "p.none", "stem": "02_y", "at_least": 3.0},
]
CLAIMS = [claim | dict(paper="P", where="w", statement="s", kind="trend", status="done") for claim in CLAIMS]


@pytest.fixture
def folder(tmp_path):
    for seed in robustness.SEEDS:
        for threads in robustness.THREADS:
            records = {"p.low": {"value": [1.0 + seed, 0.5]}, "p.near": {"value": 1.0 + 0.04 * seed + 0.01 * threads}}
            results = tmp_path / f"seed{seed}-threads{threads}" / "data" / "results"
            results.mkdir(parents=True)
            content = {"stem": "01_x", "profile": "quick", "code": "0" * 12, "packages": {}, "records": records}
            (results / "01_x.json").write_text(json.dumps(content))
    return tmp_path


def test_the_spread_of_a_claim_and_whether_it_flips(folder):
    low, near = robustness.table(folder, CLAIMS).itertuples(index=False)
    assert (low.claim, low.target, low.lowest, low.highest, low.runs, low.met, low.flips) == (
        "p.low",
        "≤ 6",
        1,
        5,
        10,
        10,
        False,
    )
    assert low.spread == pytest.approx(2.5**0.5) and low.threads == 0
    assert near.flips and near.met == 5 and near.highest == pytest.approx(1.18) and near.threads == pytest.approx(0.01)


def test_flipping_claims_are_marked_in_the_table(folder, tmp_path, monkeypatch):
    path = tmp_path / "robustness.csv"
    assert verdicts.flipping(path) == set()
    robustness.table(folder, CLAIMS).to_csv(path, index=False)
    assert verdicts.flipping(path) == {"p.near"}
    monkeypatch.setattr(verdicts, "ROBUSTNESS", path)
    rows = [verdicts.judge(claim, {}) for claim in CLAIMS]
    text = verdicts.markdown_table(rows, CLAIMS)
    assert text.count("†") == 2 and "of 2 claims 1 met its target in some runs" in text
    assert "| p.near | 1 ± 0.1 |" in text and "| 5 of 10 |" in text


def test_a_run_with_its_own_parameters_never_goes_over_the_papers_figures():
    with pytest.raises(ValueError, match="folder: expected one"):
        run.run("notebooks/01_moons_noise.ipynb", "quick", parameters={"seed": 3})
