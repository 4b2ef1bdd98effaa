"""What README.md tells its reader works."""

import importlib.util
import re
import subprocess
import sys

from rpa._files import ROOT

TEXT = (ROOT / "README.md").read_text()
PROSE = TEXT + (ROOT / "docs" / "rerun.md").read_text()


def test_it_is_short():
    assert len(TEXT.encode()) <= 9000


def test_the_example_runs():
    example = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    assert len(example.splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "patterns of 32 units, covered 1 ±" in done.stdout and "P(class 0) = P(f(x) <= 0) = 0." in done.stdout


def test_the_files_it_names_exist():
    linked = re.findall(r"\]\((?!http)([^)]+)\)", TEXT)
    named = re.findall(r"`((?:data|notebooks|rpa|tests)/[\w./]+|[\w]+\.(?:yml|cff))`", PROSE)
    assert len(linked) > 4 and [name for name in linked + named if not (ROOT / name).exists()] == []


def test_the_targets_it_names_exist():
    targets = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", PROSE, re.MULTILINE))
    assert {"figures", "test", "quick", "verify", "lab", "accept", "claim", "bundle", "sweep"} <= targets
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [target for target in targets if f"make {target} " not in listed] == []


def test_its_requests_are_understood():
    """The notebooks, claims and parameters in its commands exist."""
    from rpa.companion import run, sweep, verdicts

    notebooks, claims = set(re.findall(r"NB=(\w+)", PROSE)), set(re.findall(r"\bID=([\w.]+)", PROSE))
    requests = re.findall(r'NB=(\w+) P="([^"]+)"', PROSE)
    assert notebooks and claims and requests
    assert {run.stem_of(name) for name in notebooks} == notebooks
    assert claims <= {claim["id"] for claim in verdicts.load_claims()}
    assert all(sweep.checked(stem, sweep.parse(text)) for stem, text in requests)


def test_its_table_of_modules_names_real_ones():
    table = TEXT.partition("| room | holds |")[2].partition("\n\n")[0]
    names = re.findall(r"`(rpa[\w.]*)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert len(names) > 4 and [n for n in names if importlib.util.find_spec(n) is None] == []
