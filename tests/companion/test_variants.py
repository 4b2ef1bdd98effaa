"""One notebook with other parameters: what is refused, where it goes, and that it costs once."""

import json

import pytest

from rpa.companion import provenance, sweep
from rpa.companion.run import stem_of


def test_requests_are_read_as_python_values():
    text = "noise=[0.1, 0.3] n=1e5 network=moons_2-16-16-1 'window=[1, 2]' flag=True "
    text += "table={'a': 1} words=a b off=true quoted='a b' odd=[1"
    expected = {
        "noise": [0.1, 0.3],
        "n": 1e5,
        "network": "moons_2-16-16-1",
        "window": [1, 2],
        "flag": True,
        "table": {"a": 1},
        "words": "a b",
        "off": "true",
        "quoted": "a b",
        "odd": "[1",
    }
    assert sweep.parse(text) == expected
    for bad in ("noise", "3=4", "a=", "=1"):
        with pytest.raises(ValueError, match="expected name=value"):
            sweep.parse(bad)


PARAMETERS = provenance.parameters(provenance.notebooks()["01_moons_noise"])


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"noise": 1}, "has no parameter 'noise'"),
        ({"seed": 1.5}, "seed: expected an integer, like 0, got 1.5"),
        ({"seed": True}, "seed: expected an integer, like 0, got True"),
        ({"noise_levels": 0.1}, r"noise_levels: expected a list, like \[0.1"),
        ({"noise_levels": []}, "noise_levels: expected a list"),
        ({"noise_levels": [0.1, "a"]}, "noise_levels: expected a number, like 0.1, got 'a'"),
        ({"network": 3}, "network: expected a str"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_list(values, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        sweep.checked("01_moons_noise", values)
    assert "n_samples = 1000000  # Monte Carlo samples" in str(caught.value)


def test_numbers_may_be_whole_and_lists_longer():
    values = {"noise_levels": [1, 0.5, 0.2, 0.1], "mean": [0, 1]}
    assert sweep.checked("01_moons_noise", values) == values


def test_whole_numbers_are_integers_and_the_profile_has_its_say():
    values = sweep.checked("01_moons_noise", {"n_samples": 1e5, "hidden": [8.0, 8]})
    assert values == {"n_samples": 100000, "hidden": [8.0, 8]} and type(values["n_samples"]) is int
    with pytest.raises(ValueError, match=r"n_samples: the quick profile of 01_moons_noise replaces it.*PROFILE=full"):
        sweep.checked("01_moons_noise", {"n_samples": 2000}, "quick")


def test_notebooks_are_known_by_number_and_name():
    assert {stem_of(name) for name in ("01", "01_moons_noise", "notebooks/01_moons_noise.ipynb")} == {"01_moons_noise"}
    with pytest.raises(ValueError, match="expected one of 00_tour.*got '77'"):
        stem_of("77")


def test_a_run_is_made_once_apart_from_the_papers_results(tmp_path):
    values = {"noise_levels": [0.2], "n_thresholds": 50}
    folder = sweep.run_variant("01_moons_noise", "quick", values, tmp_path)
    assert (folder / "figures" / "01_moons_noise.png").exists()
    content = json.loads((folder / "data" / "results" / "01_moons_noise.json").read_text())
    assert content["records"]["p1.fig1.pmf"]["parameters"]["noise_levels"] == [0.2]
    assert content["parameters"]["n_thresholds"] == 50 and set(content["parameters"]) == set(PARAMETERS)
    before = (folder / "01_moons_noise.ipynb").stat().st_mtime_ns
    assert sweep.run_variant("01_moons_noise", "quick", values, tmp_path) == folder
    assert (folder / "01_moons_noise.ipynb").stat().st_mtime_ns == before
    (line,) = sweep.listed(tmp_path)
    assert line.split() == [folder.name, "quick", "done", "n_thresholds=50", "noise_levels=[0.2]"]


def test_failed_runs_are_listed(tmp_path):
    with pytest.raises(RuntimeError, match="01_moons_noise.ipynb, cell "):
        sweep.run_variant("01_moons_noise", "quick", {"network": "nobody"}, tmp_path)
    (line,) = sweep.listed(tmp_path)
    _, _, state, _ = line.split()
    assert state == "failed" and not list(tmp_path.glob("*/stage/*-*"))
