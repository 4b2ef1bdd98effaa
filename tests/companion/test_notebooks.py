"""Every notebook in its quick profile, run for real, and the form all of them share."""

import json
import math
from base64 import b64decode
from io import BytesIO

import nbformat
import numpy as np
import pytest
from helpers import run_quick
from PIL import Image

from rpa.companion import provenance, report, verdicts

NOTEBOOKS = sorted((report.ROOT / "notebooks").glob("[0-9]*.ipynb"))
STEMS = [path.stem for path in NOTEBOOKS]
LONGEST_CELL, LONGEST_LINE, IMPORTS = 25, 100, ("import ", "from ")


@pytest.mark.parametrize("stem", STEMS)
def test_quick_profile_runs_and_records(stem, quick_run):
    folder = quick_run(stem)
    assert (folder / f"{stem}.ipynb").exists()
    source = (report.ROOT / "notebooks" / f"{stem}.ipynb").read_text()
    if "save_figure" in source:
        assert (folder / "figures" / f"{stem}.png").stat().st_size > 5000
        assert (folder / "figures" / f"{stem}.pdf").exists()
        saved = Image.open(folder / "figures" / f"{stem}.png")
        outputs = [output.get("data", {}) for cell in _code(folder / f"{stem}.ipynb") for output in cell.outputs]
        (shown,) = [Image.open(BytesIO(b64decode(data["image/png"]))) for data in outputs if "image/png" in data]
        assert abs(shown.width / saved.width - shown.height / saved.height) < 2 / min(saved.size)
        assert np.abs(_coarse(shown) - _coarse(saved)).max() < 0.04, "the notebook shows another state of its figure"
    claims = [claim for claim in verdicts.load_claims() if claim["stem"] == stem and "needs" not in claim]
    finished = [claim["id"] for claim in claims if claim["status"] == "done"]
    path = folder / "data" / "results" / f"{stem}.json"
    if finished or "report.record" in source:
        content = json.loads(path.read_text())
        assert content["profile"] == "quick"
        assert set(finished) <= set(content["records"])
        numbers = [number for entry in content["records"].values() for _, number, _ in report.numbers(entry)]
        assert all(map(math.isfinite, numbers))


def _coarse(picture):
    """Brightness, 0 to 1, in 12 x 8 parts: other resolutions of one picture agree, an empty panel does not."""
    return np.asarray(picture.convert("L").resize((12, 8), Image.Resampling.BOX)) / 255


@pytest.mark.slow
@pytest.mark.parametrize("stem", STEMS)
def test_two_runs_record_the_same_bytes(stem, quick_run, tmp_path):
    folder = quick_run(stem)
    run_quick(stem, tmp_path)
    results = list((folder / "data" / "results").glob("*.json"))
    tables = [path for path in (folder / "figures").glob("*.csv") if not path.stem.endswith("_seconds")]
    for path in results + tables:
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=STEMS)
class TestForm:
    def test_is_valid_stripped_and_opens_with_a_title_and_its_figure(self, path):
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
        assert notebook.metadata.kernelspec.name == "python3"
        assert all(cell.outputs == [] and cell.execution_count is None for cell in _code(path))
        first = notebook.cells[0]
        assert first.cell_type == "markdown" and first.source.startswith("# ")
        assert f"(../figures/{path.stem}.png)" in first.source or "save_figure" not in path.read_text()

    def test_first_code_cell_holds_the_parameters(self, path):
        first = _code(path)[0]
        assert "parameters" in first.metadata.get("tags", []) and 'profile = "full"' in first.source
        named = {line.partition(" = ")[0] for line in first.source.splitlines() if " = " in line}
        assert named - {"profile"} == set(provenance.parameters(path)), "one parameter and its comment a line"
        assert all(comment for _, comment in provenance.parameters(path).values())

    def test_cells_are_short(self, path):
        work = [[line for line in cell.source.splitlines() if not line.startswith(IMPORTS)] for cell in _code(path)[1:]]
        assert [lines[0] for lines in work if len(lines) > LONGEST_CELL] == []
        assert [line for lines in work for line in lines if len(line) > LONGEST_LINE] == []


def _code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
