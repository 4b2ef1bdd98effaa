"""What a polytope {x : H x <= h} comes down to under a Gaussian: whitened rows of norm one, the certain ones left out.

Shared by `rpa.polytopes.polytope` and `rpa.polytopes.truncated`, for batches of K polytopes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_ndtr, logsumexp

if TYPE_CHECKING:
    from rpa.inputs import Gaussian


__all__ = ["gather", "groups", "is_empty", "uncertain", "unit_rows", "whiten"]

EPS = np.finfo(float).eps
FARTHEST = 1e6  # standard deviations; a row that needs more has probability exp(-5e11) and counts as never holding


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


def is_empty(H: np.ndarray, h: np.ndarray) -> bool:
    """Whether {H x <= h} is empty beyond doubt (its Chebyshev radius is below -1e-7), by linear programming (HiGHS)."""
    from scipy.optimize import linprog

    real = np.isfinite(h)
    rows = np.column_stack([H[real], np.ones(real.sum())])
    cost = np.append(np.zeros(H.shape[1]), -1.0)
    bounds = [(None, None)] * H.shape[1] + [(None, 1.0)]
    found = linprog(cost, A_ub=rows, b_ub=h[real], bounds=bounds)
    return found.status == 2 or (found.status == 0 and found.x[-1] < -1e-7)
