"""A stand-in for MNIST and Fashion-MNIST, made of scikit-learn's digits, for machines without data or network.

As many images as in the real sets, so that an index chosen for the real set exists; nothing measured on them says
anything about the real ones. `rpa.subjects.datasets` warns and marks them.
"""

import numpy as np

__all__ = ["SOURCE", "draw"]

SOURCE = "STAND-IN: scikit-learn's 8 x 8 digits, enlarged and shifted"


def draw(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (n, 28, 28) and labels uint8 (n,), n = 60,000 for "train" and 10,000 for "test"; always the same.

    The digits have 20 x 20 pixels in the middle of 28 x 28, as MNIST's; the last 500 are the test set.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    part = slice(None, -500) if split == "train" else slice(-500, None)
    large = zoom(digits[part].reshape(-1, 8, 8) / 16 * 255, (1, 2.5, 2.5), order=1)
    images, labels = np.pad(large, ((0, 0), (4, 4), (4, 4))), labels[part]
    rng = np.random.default_rng(["train", "test"].index(split))
    n = {"train": 60_000, "test": 10_000}[split]
    chosen = rng.permutation(np.arange(n) % len(labels))
    down, right = rng.integers(-2, 3, (2, n))
    gain = rng.uniform(0.75, 1.0, n)
    # One gather moves each image by its own shift; the base images have empty margins of at least two pixels.
    rows, columns = ((np.arange(28) - shift[:, None]) % 28 for shift in (down, right))
    moved = images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
    return (gain[:, None, None] * moved).astype(np.uint8), labels[chosen].astype(np.uint8)
