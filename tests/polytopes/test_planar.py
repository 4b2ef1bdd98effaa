import mpmath as mp
import numpy as np
from scipy.optimize import linprog
from scipy.special import log_ndtr

from rpa.polytopes import planar
from rpa.polytopes.normal import log_interval


def exact_log_interval(low, high):
    with mp.workdps(60):
        low, high = mp.mpf(float(low)), mp.mpf(float(high))
        if low + high > 0:
            low, high = -high, -low
        return float(mp.log((mp.erfc(-high / mp.sqrt(2)) - mp.erfc(-low / mp.sqrt(2))) / 2))


def test_log_interval_against_mpmath():
    """Widths from 1e-9 to 30, up to 1000 standard deviations out: 1e-13 beside the rounding of the logarithm."""
    rng = np.random.default_rng(0)
    low = rng.standard_normal(400) * 10 ** rng.uniform(-3, 3, 400)
    high = low + 10 ** rng.uniform(-9, 1.5, 400)
    high[:40] = low[:40] + 0.0199 / np.maximum(np.abs(low[:40]), 1)
    expected = np.array([exact_log_interval(*pair) for pair in zip(low, high)])
    np.testing.assert_allclose(log_interval(low, high), expected, rtol=1e-15, atol=1e-13)
    low, high = [-np.inf, 3.0, np.inf, 2.0, 2.0], [np.inf, 2.0, np.inf, np.inf, 2.0]
    np.testing.assert_array_equal(log_interval(low, high), [0, -np.inf, -np.inf, log_ndtr(-2.0), -np.inf])


def rotated_boxes(count, seed, thinnest=-6):
    """Boxes of any size and distance, turned by any angle: their probability is a product of two intervals."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, count)
    axes = np.stack([np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1)
    low = rng.standard_normal((count, 2)) * 10 ** rng.uniform(-2, 1.2, (count, 1))
    high = low + 10 ** rng.uniform(thinnest, 1.3, (count, 2))
    return np.concatenate([axes, -axes], 1), np.concatenate([high, -low], 1), log_interval(low, high).sum(1)


def test_boxes_are_exact_within_the_reported_error():
    H, h, expected = rotated_boxes(3000, 0)
    log_p, rel_error = planar.log_probability(H, h)
    ratio = np.abs(log_p - expected) / rel_error
    assert 0.03 < np.quantile(ratio, 0.99) < 0.3 and ratio.max() < 3


def test_empty_and_certain_half_planes():
    H = np.array([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    log_p, rel_error = planar.log_probability(H, np.array([[0.0, -1.0], [np.inf, 1.0], [np.inf, np.inf]]))
    np.testing.assert_allclose(log_p, [-np.inf, log_ndtr(1.0), 0.0], atol=1e-15)
    assert rel_error[0] == 0 and (rel_error < 1e-13).all()


def test_sets_are_called_empty_where_a_linear_program_says_so():
    """Random half-planes up to 1000 deviations out: many of the sets lie outside the square, or nowhere."""
    rng = np.random.default_rng(0)
    angle, h = rng.uniform(0, 2 * np.pi, (80, 4)), rng.standard_normal((80, 4)) * 10 ** rng.uniform(0, 3, (80, 1))
    H = np.stack([np.cos(angle), np.sin(angle)], axis=2)
    log_p, rel_error = planar.log_probability(H, h)
    empty = np.array([linprog([0, 0], rows, bounds, bounds=(None, None)).status == 2 for rows, bounds in zip(H, h)])
    assert 15 < empty.sum() < 65
    np.testing.assert_array_equal(np.isneginf(log_p), empty)
    assert (rel_error[empty] == 0).all() and ((rel_error > 0) & (rel_error < 1e-6))[~empty].all()


def test_moments_of_boxes():
    """Against the one-dimensional truncated normal's moments, at any distance from the origin."""
    H, h, log_p = rotated_boxes(300, 1, thinnest=-1)
    polygons = planar.square(300)
    for i in range(4):
        polygons = planar.clip(polygons, np.column_stack([H[:, i], h[:, i]]))
    mean, second = planar.polygon_moments(polygons, log_p)
    low, high, axes = -h[:, 2:], h[:, :2], H[:, :2]
    log_mass = log_interval(low, high)
    at_low, at_high = (np.exp(-(t**2 + np.log(2 * np.pi)) / 2 - log_mass) for t in (low, high))
    along, square = at_low - at_high, 1 + low * at_low - high * at_high
    outer = along[:, :, None] * along[:, None, :]
    outer[:, [0, 1], [0, 1]] = square
    size = 1 + (along**2).sum(axis=1)
    np.testing.assert_allclose(mean / size[:, None], (along[:, None] @ axes)[:, 0] / size[:, None], atol=1e-11)
    expected = axes.transpose(0, 2, 1) @ outer @ axes
    np.testing.assert_allclose(second / size[:, None, None], expected / size[:, None, None], atol=1e-11)


def test_split_keeps_all_mass_and_counts_every_cell():
    """n lines in general position cut the plane into 1 + n + n(n-1)/2 cells."""
    rng = np.random.default_rng(0)
    polygons, n = planar.square(1), 9
    for i in range(n):
        angle, b = np.pi * i / n, 0.3 * rng.standard_normal()
        a = np.array([np.cos(angle), np.sin(angle)])
        polygons, _, _ = planar.split(polygons, np.tile(a, (len(polygons), 1)), np.full(len(polygons), b))
    assert len(polygons) == 1 + n + n * (n - 1) // 2
    np.testing.assert_allclose(np.exp(planar.polygon_log_mass(polygons)[0]).sum(), 1, atol=1e-14)
    check_edges(polygons)


def check_edges(polygons):
    """Both ends of every edge lie on its line, the others inside, counter-clockwise; the normals have length one."""
    used = polygons.used[:, :, None]
    a, c = polygons.lines[:, :, :2], polygons.lines[:, :, 2:]
    ends_of_edges = polygons.vertices, polygons.following(polygons.vertices)
    along = ends_of_edges[1] - ends_of_edges[0]
    for ends in ends_of_edges:
        assert (np.abs((a * ends).sum(axis=2, keepdims=True) - c) * used).max() < 1e-11
    inside = (polygons.vertices @ a.transpose(0, 2, 1) - c.transpose(0, 2, 1)) * used * used.transpose(0, 2, 1)
    assert inside.max() < 1e-11 and (np.abs((a**2).sum(axis=2) - 1) * used[:, :, 0]).max() < 1e-14
    assert ((a[..., 0] * along[..., 1] - a[..., 1] * along[..., 0]) * used[:, :, 0]).min() >= 0


def test_a_square_cut_through_its_corners_and_along_its_sides():
    cut = lambda a, b: planar.split(planar.square(1), np.array([a]), np.array([b]))
    for a, b, counts, active in (
        ([1, 1], 0, [3, 3], [0, 1]),
        ([1, 0], 60, [4], [1]),
        ([-1, 0], -60, [4], [0]),
        ([0, 0], 1e-14, [4], [1]),
        ([0, 0], -1e-14, [4], [0]),
    ):
        polygons, parent, on = cut(np.array(a, dtype=float), float(b))
        assert (list(polygons.counts), list(on.astype(int)), set(parent)) == (counts, active, {0})
        check_edges(polygons)
        mass = np.exp(planar.polygon_log_mass(polygons)[0])
        np.testing.assert_allclose(mass, 1 / len(counts), rtol=1e-14)
