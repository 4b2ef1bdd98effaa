"""A picture drawn over kept pixels is the picture drawn from scratch."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rpa.experiments.stage import Stage, sticky_limits


@pytest.fixture
def stage():
    figure, axes = plt.subplots(figsize=(2, 2), layout="none")  # whatever style an earlier test has set
    line = axes.plot([0, 1], [0, 1])[0]
    yield Stage(figure, [line, axes.title])
    plt.close(figure)


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


def test_other_limits_are_drawn_from_scratch(stage):
    stage.draw()
    kept, axes = stage.kept, stage.figure.axes[0]
    stage.limits(axes, xlim=axes.get_xlim())
    assert stage.kept is kept
    stage.limits(axes, xlim=(0.0, 5.0))
    stage.draw()
    assert axes.get_xlim() == (0.0, 5.0) and stage.kept is not kept


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
def test_limits_stand_until_they_are_too_narrow_or_too_wide(low, high, expected):
    assert sticky_limits((0, 10), low, high, 0.2, 0.2) == pytest.approx(expected)
