"""What a polytope {x : H x <= h} comes down to under a Gaussian: whitened rows of norm one, the certain ones left out.

Shared by `rpa.polytopes.polytope` and `rpa.polytopes.truncated`, for batches of K polytopes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_ndtr, logsumexp

if TYPE_CHECKING:
    from rpa.inputs import Gaussian


__all__ = ["gather", "groups", "inscribed_ball", "is_empty", "log_slab", "uncertain", "unit_rows", "whiten"]

EPS = np.finfo(float).eps
FARTHEST = 1e6  # standard deviations; a row that needs more has probability exp(-5e11) and counts as never holding
TOGETHER = 100  # polytopes in one linear program
TAIL = 1e-17  # above P(|z| > sqrt(r) + 9) in any dimension r


def whiten(H: np.ndarray, h: np.ndarray, gaussian: Gaussian) -> tuple[np.ndarray, np.ndarray]:
    """The polytope where the law is N(0, I), as a batch of one (1, n, r), (1, n). Rows that are rounding become
    zero.
    """
    rows = gaussian.times_factor(H)
    reach = np.linalg.norm(H, axis=1) * np.sqrt(gaussian.variances.max(initial=0.0))
    noise = np.linalg.norm(rows, axis=1) <= 8 * EPS * max(H.shape) * reach
    slack = h - H @ gaussian.mean
    # The sign of a slack that is all rounding means nothing: such a row holds with equality.
    rounding = 8 * EPS * (np.abs(h) + np.abs(H) @ np.abs(gaussian.mean))
    slack[noise & (np.abs(slack) <= rounding)] = 0.0
    return np.where(noise[:, None], 0.0, rows)[None], slack[None]


def unit_rows(H: np.ndarray, h: np.ndarray) -> tuple:
    """Rows scaled to norm 1, and whether the polytope is empty (K,) because a row cannot hold.

    A zero row that always holds gets the bound infinity.
    """
    norm = np.linalg.norm(H, axis=2)
    scale = np.where(norm > 0, norm, 1.0)
    empty = (np.where(norm > 0, h / scale + FARTHEST, h) < 0).any(axis=1)
    return H / scale[:, :, None], np.where(norm > 0, h / scale, np.inf), empty


def uncertain(h: np.ndarray, log_budget: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows to keep, bool (K, n), and the log of the union bound (K,) of the others, at most exp(log_budget)."""
    log_tail = np.where(np.isfinite(h), log_ndtr(-h), -np.inf)
    order = np.argsort(log_tail, axis=1)
    running = np.logaddexp.accumulate(np.take_along_axis(log_tail, order, axis=1), axis=1)
    drop = running <= log_budget[:, None]
    kept = np.empty_like(drop)
    np.put_along_axis(kept, order, ~drop, axis=1)
    return kept, logsumexp(np.where(kept, -np.inf, log_tail), axis=1) if h.shape[1] else np.full(len(h), -np.inf)


def groups(kept: np.ndarray, dim: int) -> Any:
    """[(indices, rows)]: polytopes of a similar number of kept rows, to be padded to the same number.

    In the plane a row costs so little that all make one group. A group is small enough for its arrays of rows x dim
    numbers to stay below 32 MiB each.
    """
    number = kept.sum(axis=1)
    size = np.where(number > 4, -(-number // 4) * 4, number) if dim > 2 else np.full_like(number, number.max(initial=0))
    found = []
    for rows in np.unique(size):
        index, most = np.flatnonzero(size == rows), max(1, 2**22 // max(rows * dim, 1))
        found += [(index[first : first + most], int(rows)) for first in range(0, len(index), most)]
    return found


def gather(H: np.ndarray, h: np.ndarray, kept: np.ndarray, rows: int) -> tuple:
    """The kept rows of each polytope, padded to `rows` with zero rows of infinite bound."""
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
    for start in range(0, count, TOGETHER):
        some = slice(start, min(start + TOGETHER, count))
        size = some.stop - start
        matrix = sparse.block_diag(list(rows[some]), format="csc")
        limits = np.where(real[some], h[some], 0.0).ravel()
        solution = linprog(np.tile(cost, size), A_ub=matrix, b_ub=limits, bounds=bounds * size)
        if solution.status == 0:
            y[some] = np.maximum(-solution.ineqlin.marginals, 0.0).reshape(size, n)
    return np.where(real, y, 0.0)


def is_empty(h: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether each polytope of bounds h (K, n) is empty beyond doubt, by the multipliers y of its `inscribed_ball`."""
    return (y * np.where(np.isfinite(h), h, 0.0)).sum(axis=1) < -1e-7


def log_slab(H: np.ndarray, h: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log of an upper bound of P(H z <= h), z ~ N(0, I), for polytopes with little or no interior, (K,).

    Multipliers y >= 0 bound the slacks of the rows: sum_i y_i (h_i - H_i z) <= y h + |y H| |z|. So the set lies in a
    slab of the row of the largest y_i, of width (y h + |y H| |z|) / y_i, in which the normal density is at most 0.4.
    With the multipliers of the `inscribed_ball` a cone that touches another in its apex, or two rows that contradict
    each other, have a width of rounding only; any others give a bound too.
    """
    far = np.sqrt(H.shape[2]) + 9
    total = (y * np.where(np.isfinite(h), h, 0.0)).sum(axis=1)
    width = total + far * np.linalg.norm((y[:, :, None] * H).sum(axis=1), axis=1)
    largest = y.max(axis=1, initial=0.0)
    width = np.divide(np.maximum(width, 0.0), largest, out=np.full(len(h), np.inf), where=largest > 0)
    return np.log(np.minimum(0.4 * width + TAIL, 1.0))
