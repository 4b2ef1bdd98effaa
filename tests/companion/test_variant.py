"""One notebook with other parameters: what is refused, where it goes, and that it costs once."""

import json

import pytest

from rpa.companion import variant
from rpa.companion.report import ROOT

STEMS = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]


@pytest.mark.parametrize("stem", STEMS)
def test_every_parameter_is_explained(stem):
    found = variant.parameters_of(stem)
    assert found and [name for name, parameter in found.items() if len(parameter.comment) < 8] == []


def test_requests_are_read_as_python_values():
    text = "noise=[0.1,0.3] n=3 network=moons_2-16-16-1 'window=[1, 2]' flag=True table={'a':1}"
    expected = {
        "noise": [0.1, 0.3],
        "n": 3,
        "network": "moons_2-16-16-1",
        "window": [1, 2],
        "flag": True,
        "table": {"a": 1},
    }
    assert variant.parse(text) == expected
    for bad in ("noise", "3=4", "a=", "=1"):
        with pytest.raises(ValueError, match="expected name=value"):
            variant.parse(bad)


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"noise": 1}, "has no parameter 'noise'"),
        ({"seed": 1.5}, "seed: expected an integer, like 0, got 1.5"),
        ({"seed": True}, "seed: expected a int"),
        ({"noise_levels": 0.1}, r"noise_levels: expected a list, like \[0.1"),
        ({"noise_levels": []}, "noise_levels: expected a list"),
        ({"noise_levels": [0.1, "a"]}, "noise_levels: expected a list, each entry a number"),
        ({"network": 3}, "network: expected a str"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_list(values, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        variant.checked("01_moons_noise", values)
    assert "n_samples = 1000000  # Monte Carlo samples" in str(caught.value)


def test_numbers_may_be_whole_and_lists_longer():
    values = {"noise_levels": [1, 0.5, 0.2, 0.1], "mean": [0, 1]}
    assert variant.checked("01_moons_noise", values) == values


def test_notebooks_are_known_by_number_and_name():
    assert {variant.stem_of(name) for name in ("01", "01_moons_noise", "notebooks/01_moons_noise.ipynb")} == {
        "01_moons_noise"
    }
    with pytest.raises(ValueError, match="expected one of 00_tour.*got '77'"):
        variant.stem_of("77")


def test_a_run_is_made_once_apart_from_the_papers_results(tmp_path, capsys):
    request = ["01", "noise_levels=[0.2] n_samples=20000", "--profile", "quick", "--runs", str(tmp_path)]
    assert variant.main(request) == 0
    (folder,) = tmp_path.glob("01_moons_noise-*")
    assert (folder / "figures" / "01_moons_noise.png").exists() and (folder / "01_moons_noise.ipynb").exists()
    stored = json.loads((folder / "data" / "results" / "01_moons_noise.json").read_text())["records"]["p1.fig1.pmf"]
    assert stored["parameters"]["noise_levels"] == [0.2]
    before = (folder / "01_moons_noise.ipynb").stat().st_mtime_ns
    assert variant.main(request) == 0 and (folder / "01_moons_noise.ipynb").stat().st_mtime_ns == before
    capsys.readouterr()
    assert variant.main(["--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [folder.name, "quick", "n_samples=20000", "noise_levels=[0.2]"]
    assert variant.main(["01", "noise=3"]) == 2 and "has no parameter" in capsys.readouterr().err
