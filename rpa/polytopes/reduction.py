"""A polytope {x : H x <= h} under a Gaussian reduced to whitened rows of norm one, the certain ones left out.

Rows are brought into one order and repeated ones deleted, so that an answer depends on the polytope and not on how it
is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr

from rpa import _check
from rpa.inputs import Gaussian

EPS = np.finfo(float).eps
NEGLIGIBLE = 1e-3  # union bound of the dropped rows relative to rtol times the probability
NOISE = 2.0  # a row whose variance is at most this many times its error has none
REMOTE = 1e8  # a polytope proved empty within as many standard deviations is called empty
FILLED = (40.0, 8.0)  # deviations of the bounds beyond which an empty polytope is empty, and a thin one is not
ROWS_AT_ONCE = 1000  # in one linear program: few large problems and many small ones are slower
TAIL = 1e-17  # above P(|z| > sqrt(r) + 9) in any dimension r


@dataclass(frozen=True, eq=False)
class Doubt:
    """Errors of one whitened polytope of n rows of norm 1.

    given (n, d): the rows as given; shift (n,): error of the bounds; gaussian: the law; rows (n, d): the rows in
    standard deviations of the coordinates; log_missed: log of a bound on what the rows without variance cut off;
    log_ceiling: log of a bound on the probability, from rows without variance that do not hold; infinite if there are
    none.
    """

    given: np.ndarray
    shift: np.ndarray
    gaussian: Gaussian
    rows: np.ndarray
    log_missed: float
    log_ceiling: float

    def of_law(self, unit: np.ndarray, h: np.ndarray, kept: np.ndarray, rows: np.ndarray, log_p: float) -> float:
        """Relative error of P from the error E of the correlations.

        unit (n, r), h (n,): whitened rows of norm 1 and bounds, of which `kept` count; rows (n, d): `self.rows` in
        their order. The law of z in the rows' span is N(0, I + X), X = A E A^T, where A maps directions to combinations
        of coordinates. That changes log P by E z'Xz - tr X over 2, and |E z|^2 <= -2 log P. What `root` leaves out
        moves the bounds by random amounts; infinite where they decide whether the polytope is empty.
        """
        if self.gaussian.root is None or not kept.any():
            return 0.0
        unit, rows, rank = unit[kept], rows[kept], np.linalg.matrix_rank(unit[kept])
        moved = 0.0
        if len(rows) > rank:
            # The slacks of the rows, weighted by y, add up to y h; under the given law this sum has the deviation s.
            y = _balanced(unit, inscribed_ball(unit[None], h[None, kept])[0])
            width, s = y @ h[kept], max(y @ rows @ self.gaussian.correlations @ (y @ rows), 0.0) ** 0.5
            if -FILLED[0] * s < width < FILLED[1] * s:
                return np.inf
            moved = len(y) * (s / width) ** 2 if s else 0.0
        if not np.isfinite(log_p):
            return 0.0
        spread = np.linalg.norm(self.gaussian.lost(np.linalg.pinv(unit, rcond=1e-14) @ rows), 2)
        return float(spread * (rank - log_p) + moved)


def whiten(H: ArrayLike, h: ArrayLike, gaussian: Gaussian) -> tuple[np.ndarray, np.ndarray, Doubt]:
    """The polytope where the law is N(0, I), as a batch of one (1, n, r), (1, n), and its `Doubt`.

    Each row is scaled by a power of two, so that no product over- or underflows. Rows that are rounding become zero.
    """
    if not isinstance(gaussian, Gaussian):
        raise ValueError(f"gaussian: expected Gaussian, got {type(gaussian).__name__}")
    H = _check.array("H", H, (None, gaussian.dim))
    h = _check.array("h", h, (len(H),))
    (m_row, e_row), (m_scale, e_scale), (m_mean, e_mean) = map(np.frexp, (H, gaussian.scales, gaussian.mean))
    exponent = np.where(m_row * m_scale != 0, e_row + e_scale, -(2**20))
    top = exponent.max(axis=1, initial=-(2**20))
    top = np.where(top == -(2**20), e_row.max(axis=1, initial=0), top)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ldexp(m_row * m_scale, e_row + e_scale - top[:, None])
        parts = np.ldexp(m_row * m_mean, e_row + e_mean - top[:, None])
        bound = np.ldexp(h, -top)
        slack = bound - parts.sum(axis=1)
    if np.isnan(slack).any():
        raise ValueError("H, h, gaussian: expected a row whose terms can be added, got infinity minus infinity")
    # Where nothing is subtracted the bound is as exact as it was given.
    shift = np.where(parts.any(axis=1), EPS * (np.abs(bound) + np.abs(parts).sum(axis=1)), 0.0)
    # Row by row: the last bits of a product of matrices depend on how many rows there are.
    rows = scaled if gaussian.root is None else (scaled[:, None] @ gaussian.root)[:, 0]
    size = (rows**2).sum(axis=1)
    lost = np.diag(gaussian.lost(scaled))
    noise = size <= NOISE * lost
    # The sign of a slack that is all rounding means nothing: such a row holds with equality.
    slack[noise & (np.abs(slack) <= 8 * shift)] = 0.0
    largest = np.sqrt(size + lost)
    vague = noise & (largest > 0) & (slack != 0)
    log_tail = log_ndtr(-np.abs(slack[vague]) / largest[vague])
    fails = slack[vague] < 0
    missed = np.logaddexp.reduce(log_tail[~fails], initial=-np.inf)
    norm = np.where(noise, 1.0, np.sqrt(size))
    ceiling = log_tail[fails].min(initial=np.inf)
    doubt = Doubt(H, shift / norm, gaussian, scaled / norm[:, None], float(missed), float(ceiling))
    slack[vague] = 0.0
    return np.where(noise[:, None], 0.0, rows)[None], slack[None], doubt


def unit_rows(H: np.ndarray, h: np.ndarray) -> tuple:
    """Rows scaled to norm 1, and whether the polytope is empty (K,) because a row cannot hold.

    A zero row that always holds gets the bound infinity.
    """
    _, exponent = np.frexp(np.abs(H).max(axis=2, initial=0.0))
    power = np.ldexp(1.0, np.clip(-exponent, -1022, 1022))
    with np.errstate(over="ignore"):
        H, h = H * power[:, :, None], h * power
        norm = np.linalg.norm(H, axis=2)
        dead = norm == 0
        scale = np.where(dead, 1.0, norm)
        H /= scale[:, :, None]
        H += 0.0  # no negative zeros
        return H, np.where(dead, np.inf, h / scale), (dead & (h < 0)).any(axis=1)


def distinct(H: np.ndarray, h: np.ndarray) -> tuple:
    """Rows of norm 1 in the order of their bounds, of equal ones the first; also their former places (K, n).

    Deleted rows become zero rows of infinite bound, at the end.
    """
    h = h.copy()
    k, _, second = matching(H, h, 1)
    h[k, second] = np.inf
    order, rows = np.lexsort((_keys(H), h), axis=1), np.arange(len(H))[:, None]
    H, h = H[rows, order], h[rows, order]
    H[~np.isfinite(h)] = 0.0
    return H, h, order


def matching(H: np.ndarray, h: np.ndarray, sign: int) -> tuple:
    """(k, i, j), each (P,): row j of polytope k is exactly `sign` times its row i.

    Of more than two equal rows each is paired with the one of the next larger bound; opposite ones have no copies.
    """
    key = _keys(H)
    order = np.lexsort((h, key if sign > 0 else np.abs(key)), axis=1)
    ordered = np.take_along_axis(key, order, 1)
    k, place = np.nonzero((ordered[:, 1:] == sign * ordered[:, :-1]) & (ordered[:, 1:] != 0))
    i, j = order[k, place], order[k, place + 1]
    same = (H[k, j] == sign * H[k, i]).all(axis=1)
    return k[same], i[same], j[same]


def _keys(H):
    return (H * np.cos(np.arange(1.0, H.shape[2] + 1))).sum(axis=2)


def uncertain(h: np.ndarray, log_budget: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep, bool (K, n), and the log of the union bound (K,) of the others, at most exp(log_budget)."""
    log_tail = np.where(np.isfinite(h), log_ndtr(-h), -np.inf)
    order = np.argsort(log_tail, axis=1, kind="stable")
    running = np.logaddexp.accumulate(np.take_along_axis(log_tail, order, axis=1), axis=1)
    drop = running <= log_budget[:, None]
    kept = np.empty_like(drop)
    np.put_along_axis(kept, order, ~drop, axis=1)
    return kept, np.where(drop, running, -np.inf).max(axis=1, initial=-np.inf)


def groups(kept: np.ndarray, dim: int) -> Any:
    """[(indices, rows)]: polytopes of a similar number of kept rows, to be padded to the same number.

    Above the plane that number depends on the polytope alone, not on its neighbours; in the plane all make one group.
    The arrays of a group stay below 32 MiB each.
    """
    number = kept.sum(axis=1)
    size = np.where(number > 4, -(-number // 4) * 4, number) if dim > 2 else np.full_like(number, number.max())
    found = []
    for rows in np.unique(size):
        index, most = np.flatnonzero(size == rows), max(1, 2**22 // max(rows * dim, 1))
        found += [(index[first : first + most], int(rows)) for first in range(0, len(index), most)]
    return found


def gather(H: np.ndarray, h: np.ndarray, kept: np.ndarray, rows: int) -> tuple:
    """The kept rows of each polytope, padded to `rows` with zero rows of infinite bound."""
    if (lacking := rows - h.shape[1]) > 0:
        H, h = np.pad(H, ((0, 0), (0, lacking), (0, 0))), np.pad(h, ((0, 0), (0, lacking)))
        kept = np.pad(kept, ((0, 0), (0, lacking)))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :rows]
    valid = np.take_along_axis(kept, order, axis=1)
    h = np.where(valid, np.take_along_axis(h, order, axis=1), np.inf)
    return np.where(valid[:, :, None], np.take_along_axis(H, order[:, :, None], axis=1), 0.0), h


def inscribed_ball(H: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Multipliers (K, n) of the largest ball, of radius at most 1, in each polytope: y >= 0 of sum 1, 0 if unsolved.

    H (K, n, r) with rows of norm one or zero, h (K, n). One linear program for many polytopes (HiGHS).
    """
    from scipy import sparse
    from scipy.optimize import linprog

    count, n, r = H.shape
    real = np.isfinite(h)
    rows = np.concatenate([np.where(real[:, :, None], H, 0.0), real[:, :, None].astype(float)], axis=2)
    bounds, cost = [(None, None)] * r + [(None, 1.0)], np.append(np.zeros(r), -1.0)
    y = np.zeros((count, n))
    together = max(1, ROWS_AT_ONCE // max(n, 1))
    for start in range(0, count, together):
        some = slice(start, min(start + together, count))
        size = some.stop - start
        matrix = sparse.block_diag(list(rows[some]), format="csc")
        limits = np.where(real[some], h[some], 0.0).ravel()
        solution = linprog(np.tile(cost, size), A_ub=matrix, b_ub=limits, bounds=bounds * size)
        if solution.status == 0:
            y[some] = np.maximum(-solution.ineqlin.marginals, 0.0).reshape(size, n)
    return np.where(real, y, 0.0)


def is_empty(H: np.ndarray, h: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which polytopes {H z <= h} are proved empty within REMOTE standard deviations, (K,).

    The proof is a combination of the rows with weights w >= 0, w H = 0 and w h < 0 (Farkas), where rounding is far
    smaller than w h. y (K, n): multipliers of the `inscribed_ball`, from which w is made.
    """
    proved = np.zeros(len(H), dtype=bool)
    for k in np.flatnonzero(y.any(axis=1)):
        bounds, weights = np.where(np.isfinite(h[k]), h[k], 0.0), _balanced(H[k], y[k])
        gap, size = -weights @ bounds, np.abs(weights) @ (1 + np.abs(bounds))
        sure = (weights >= 0).all() and gap > 64 * EPS * size
        proved[k] = sure and np.linalg.norm(weights @ H[k]) * REMOTE < gap
    return proved


def _balanced(H, weights):
    """The solver's weights, good to 1e-9, corrected within their support: weights @ H is zero to rounding."""
    support, weights = weights > 0, weights.copy()
    weights[support] -= np.linalg.lstsq(H[support].T, weights @ H, rcond=None)[0]
    return weights


def log_slab(H: np.ndarray, h: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log of an upper bound of P(H z <= h), z ~ N(0, I), for polytopes with little or no interior, (K,).

    A polytope lies in the half-space of each of its rows, of norm 1. Multipliers y >= 0 bound the slacks of the rows:
    sum_i y_i (h_i - H_i z) <= y h + |y H| |z|. So it lies in a slab of width (y h + |y H| |z|) / y_i along the row of
    the largest y_i, where the normal density is at most 0.4. y: of the `inscribed_ball`, for example.
    """
    far = np.sqrt(H.shape[2]) + 9
    total = (y * np.where(np.isfinite(h), h, 0.0)).sum(axis=1)
    width = total + far * np.linalg.norm((y[:, :, None] * H).sum(axis=1), axis=1)
    largest = y.max(axis=1, initial=0.0)
    width = np.divide(np.maximum(width, 0.0), largest, out=np.full(len(h), np.inf), where=largest > 0)
    return np.minimum(np.log(np.minimum(0.4 * width + TAIL, 1.0)), log_ndtr(h).min(axis=1))
