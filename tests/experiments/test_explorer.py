"""Notebook 99 in JupyterLab and as Voilà's page, dragged and clicked in a real browser, and the picture it keeps."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import browser, wait_for
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from rpa._files import ROOT
from rpa.companion import report
from rpa.experiments.explorer import Explorer, Stage, _cumulated, _fresh
from rpa.inputs import Gaussian
from rpa.patterns.pmf import pattern_pmf

# What JupyterLab says by itself in an empty folder.
USUAL = ("Failed to load resource", "WebSocket", "GPU", "WebGL")


@pytest.fixture(scope="module")
def explorer():
    """An `Explorer` of this process with its cell's parameters: where its handles are drawn, the page's are."""
    backend = matplotlib.get_backend()
    matplotlib.use("module://ipympl.backend_nbagg")
    with matplotlib.rc_context():
        report.use_style()
        yield Explorer(["moons_2-16-16-1", "moons_2-8-8-1"], [0.9, 0.45], 0.25, 2000, 0, (-2, 3, -1.6, 2.5))
    matplotlib.use(backend)


@contextmanager
def served(command, folder):
    """The address at which a server answers, and its end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(ROOT / "notebooks" / "99_explore.ipynb", folder)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(folder / "config")}
    command = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=log)

    def listens():  # without asking for a page: each that Voilà serves starts a kernel
        assert process.poll() is None, (folder / "server.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


LAB = ["jupyterlab", "--no-browser", "--allow-root", "--port={port}", "--IdentityProvider.token=", "--LabApp.news_url="]
VOILA = ["voila", "99_explore.ipynb", "--no-browser", "--port={port}"]


@pytest.mark.parametrize("command, place", [(LAB, "/lab/tree/99_explore.ipynb"), (VOILA, "/")], ids=["lab", "voila"])
def test_every_control_changes_the_picture(command, place, explorer, tmp_path):
    with browser() as page, served(command, tmp_path) as address:
        heard: list[str] = []
        page.set_viewport_size({"width": 1500, "height": 1100})
        page.on("console", lambda message: message.type == "error" and heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.goto(address + place)
        if place != "/":
            page.wait_for_selector(".jp-Notebook .jp-Cell")
            page.wait_for_function("document.body.innerText.includes('| Idle')")
            page.click("#jp-MainMenu >> text=Run")
            page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
        canvas = page.wait_for_selector(".jupyter-matplotlib-canvas-div canvas >> nth=-1")
        page.wait_for_function("document.body.innerText.includes(' ms')")
        canvas.scroll_into_view_if_needed()
        _drag(page, canvas, explorer)
        if place == "/":  # the controls are the same widgets in JupyterLab
            _use_every_control(page, canvas)
        assert [text for text in heard if not any(word in text for word in USUAL)] == []


def _drag(page, canvas, explorer):
    height = explorer.figure.get_figheight() * explorer.figure.dpi

    def move(point):
        x, y = explorer.axes[0].transData.transform(point)
        box = canvas.bounding_box()
        ratio = box["height"] / height
        page.mouse.move(box["x"] + x * ratio, box["y"] + (height - y) * ratio)

    def mean():
        found = re.search(r"mean \((-?[\d.]+), (-?[\d.]+)\); \d+ ms", page.inner_text("body"))
        return np.array([float(part) for part in found.groups()])

    def drag(start, end):
        move(start)
        page.mouse.down()
        for point in np.linspace(start, end, 6)[1:]:
            move(point)
            page.wait_for_timeout(50)
        page.mouse.up()

    assert mean().tolist() == [0.9, 0.45]
    _changes(page, canvas, lambda: drag((0.9, 0.45), (0.2, 0.9)))
    wait_for(lambda: mean() == pytest.approx([0.2, 0.9], abs=0.03))
    _changes(page, canvas, lambda: drag(mean() + [0.5, 0], mean() + [0.9, 0.3]))
    move((0.2, 0.9))
    page.wait_for_function("document.body.innerText.includes('probability')")


def _use_every_control(page, canvas):
    """Each of them in turn; the sliders of the network's shape once they are free, and small when it is trained."""

    def choose(name, option):
        select = page.locator(f".widget-dropdown:has-text('{name}') select")
        _changes(page, canvas, lambda: select.select_option(label=option))

    def slide(name, key):
        handle = page.locator(f".widget-slider:has-text('{name}') .noUi-handle")
        _changes(page, canvas, lambda: handle.press(key))

    slide("noise", "PageUp")
    toggle, box = ".widget-toggle-button:has-text('{}')", ".widget-checkbox input"
    for control in (toggle.format("density"), box, box, toggle.format("distribution")):
        _changes(page, canvas, lambda: page.click(control))
    for moon in ("blue", "orange"):
        choose("input", f"mixture of the {moon} moon")
    choose("network", "moons_2-8-8-1")
    choose("network", "fresh")
    for name, key in (("seed", "ArrowRight"), ("width", "Home"), ("layers", "Home")):
        slide(name, key)
    choose("network", "trained now")


def _changes(page, canvas, action):
    """Act on a picture at rest, and wait until more of it is another than a blink would make."""
    picture = lambda: np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("L"), dtype=int)
    differ = lambda one, other: (abs(one - other) > 60).sum()
    seen = [picture()]

    def rests():
        page.wait_for_timeout(300)
        seen.append(picture())
        return not differ(*seen[-2:])

    wait_for(rests)
    action()
    wait_for(lambda: differ(picture(), seen[-1]) > 20)


@pytest.fixture
def stage():
    figure = Figure(figsize=(2, 2), layout="none")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    return Stage(figure, [axes.plot([0, 1], [0, 1])[0], axes.title])


def _pixels(stage):
    return np.array(stage.figure.canvas.buffer_rgba())


def test_moved_artists_look_as_if_drawn_from_scratch(stage):
    line, title = stage.moving
    stage.draw()
    before, kept = _pixels(stage), stage.kept
    line.set_data([0, 1], [1, 0])
    title.set_text("moved")
    stage.draw()
    assert stage.kept is kept
    moved = _pixels(stage)
    assert (moved != before).any()
    stage.kept = None
    stage.draw()
    np.testing.assert_array_equal(_pixels(stage), moved)


def test_a_saved_figure_holds_the_moving_artists_and_keeps_no_pixels(stage, tmp_path):
    stage.draw()
    kept = stage.kept
    stage.figure.savefig(tmp_path / "with.png")
    assert stage.kept is kept
    for artist in stage.moving:
        artist.set_visible(False)
    stage.figure.savefig(tmp_path / "without.png")
    assert (plt.imread(tmp_path / "with.png") != plt.imread(tmp_path / "without.png")).any()


@pytest.mark.parametrize("low, high, expected", [(1, 9, (0, 10)), (2, 5, (1.4, 5.6)), (1, 11, (-1, 13))])
def test_limits_stand_until_they_are_too_narrow_or_too_wide(stage, low, high, expected):
    axes = stage.figure.axes[0]
    axes.set_xlim(0, 10)
    stage.draw()
    assert stage.view(axes, "xlim", low, high, 0.2, 0.2) == axes.get_xlim() == pytest.approx(expected)
    assert (stage.kept is None) == (expected != (0, 10))


@pytest.mark.parametrize("seed", [0, 7, 18])
def test_the_distribution_is_right_where_the_density_has_narrow_peaks(seed):
    law = pattern_pmf(_fresh([4, 4], seed), Gaussian([0.9, 0.45], 0.0625)).output()
    grid = law.mean[0] + np.sqrt(law.cov[0, 0]) * np.linspace(-9, 4.5, 150)
    np.testing.assert_allclose(_cumulated(law, grid, law.pdf(grid)), law.cdf(grid), rtol=0, atol=0.02)
