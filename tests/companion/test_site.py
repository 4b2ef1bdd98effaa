"""The report of the quick profile in a real browser, opened as a file."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from helpers import browser

from rpa._files import ROOT


def _build(base, source, out):
    """The site of base/quick, as `make report` builds it."""
    source.mkdir()
    command = [sys.executable, *"-m sphinx -q -E -c docs".split(), source, out]
    environment = os.environ | {"PROFILE": "quick", "RPA_BUILD": str(base)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def report_folder(quick_run, tmp_path_factory):
    """The report of what the quick runs of this session left."""
    base, site = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("site")
    # From the last to the first, since another process may be running them from the first on.
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"), reverse=True):
        shutil.copytree(quick_run(path.stem), base / "quick", dirs_exist_ok=True)
    status, output = _build(base, site / "source", site / "report")
    assert status == 0, output
    return site / "report"


@pytest.fixture(scope="module")
def page():
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def visited(report_folder, page):
    """{page: what the browser saw there}, for every page of the report."""
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("requestfailed", lambda request: heard.append(f"failed: {request.url}"))
    local = ("file:", "data:")
    page.on("request", lambda request: request.url.startswith(local) or heard.append(f"asked: {request.url}"))
    seen = {}
    for path in sorted(report_folder.rglob("*.html")):
        if "_static" in path.parts:
            continue
        heard.clear()
        page.goto(path.as_uri())
        seen[path] = {
            "heard": list(heard),
            "broken": page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"),
            "links": page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)"),
            "ids": set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")),
            "math": page.evaluate("document.querySelectorAll('math').length"),
            "text": page.inner_text("body"),
        }
    return seen


def test_no_page_complains_or_asks_another_host(visited):
    assert len(visited) > 20
    assert [(path.name, seen["heard"]) for path, seen in visited.items() if seen["heard"]] == []
    assert [(path.name, seen["broken"]) for path, seen in visited.items() if seen["broken"]] == []


def test_formulas_are_rendered(visited):
    seen = next(seen for path, seen in visited.items() if path.name == "06_gnm_formulas.html")
    assert seen["math"] > 20 and "\\frac" not in seen["text"] and "$" not in seen["text"].partition("profile =")[0]


@pytest.mark.parametrize("style", ["", "math {font-family: 'DejaVu Sans' !important}"], ids=["as it is", "no font"])
def test_subscripts_are_lowered_without_a_mathematics_font_too(report_folder, page, style):
    page.goto((report_folder / "notebooks" / "06_gnm_formulas.html").as_uri())
    page.add_style_tag(content=style or "p {}")
    page.evaluate("dispatchEvent(new Event('DOMContentLoaded'))")
    of_x = "[...document.querySelectorAll('msub')].find(e => e.children[0].textContent == 'x')"
    base, subscript = page.evaluate(f"[...{of_x}.children].map(e => e.getBoundingClientRect().bottom)")
    assert subscript > base + 1


def test_every_link_inside_resolves(visited):
    wrong = []
    for path, seen in visited.items():
        for link in seen["links"]:
            target, fragment = urldefrag(urljoin(path.as_uri(), link))
            if not target.startswith("file:"):
                continue
            other = next((each for each in visited if each.as_uri() == target), None)
            missing = fragment and other and unquote(fragment) not in visited[other]["ids"]
            if missing or (other is None and not Path(unquote(urlparse(target).path)).is_file()):
                wrong.append((path.name, link))
    assert wrong == []


def test_a_verdict_leads_to_the_cell_that_records_it(visited):
    path, seen = next((path, seen) for path, seen in visited.items() if path.name == "results.html")
    cells = [link for link in seen["links"] if "#cell-" in link]
    assert len(cells) >= 25 and any(path.name == "index.html" and "Authors" in v["text"] for path, v in visited.items())
    other = next(each for each in visited if urldefrag(cells[0])[0] == each.as_uri())
    assert urldefrag(cells[0])[1] in visited[other]["ids"]


def test_without_executed_notebooks_the_way_out_is_named(tmp_path):
    status, output = _build(tmp_path, tmp_path / "source", tmp_path / "report")
    assert status != 0 and "no executed notebooks; run make figures PROFILE=quick" in output


def test_a_verdict_without_executed_notebook_has_no_link(tmp_path, monkeypatch):
    monkeypatch.setenv("RPA_BUILD", str(tmp_path))
    link = runpy.run_path(str(ROOT / "docs" / "conf.py"))["_link"]
    assert link({"stem": "01_moons_noise", "id": "x"}, "holds", {}) == "holds"
