"""Stand-ins for MNIST and Fashion-MNIST, drawn here for machines without data or network.

As many images as in the real sets, so that an index chosen for the real set exists; nothing measured on them says
anything about the real ones. `rpa.subjects.datasets` warns and marks them.
"""

import numpy as np

__all__ = ["SOURCES", "draw"]

SOURCES = {
    "MNIST": "STAND-IN: scikit-learn's 8 x 8 digits, enlarged and shifted",
    "FashionMNIST": "STAND-IN: drawn silhouettes",
}

# Outlines in a unit square, y down; several polygons make one silhouette.
_BODY = [(0.3, 0.1), (0.7, 0.1), (0.7, 0.9), (0.3, 0.9)]
_SILHOUETTES = [
    [_BODY, [(0.3, 0.1), (0.3, 0.35), (0.08, 0.4), (0.08, 0.2)], [(0.7, 0.1), (0.7, 0.35), (0.92, 0.4), (0.92, 0.2)]],
    [[(0.32, 0.05), (0.68, 0.05), (0.7, 0.95), (0.55, 0.95), (0.5, 0.3), (0.45, 0.95), (0.3, 0.95)]],
    [_BODY, [(0.3, 0.1), (0.3, 0.3), (0.16, 0.88), (0.02, 0.85)], [(0.7, 0.1), (0.7, 0.3), (0.84, 0.88), (0.98, 0.85)]],
    [[(0.4, 0.05), (0.6, 0.05), (0.58, 0.4), (0.75, 0.95), (0.25, 0.95), (0.42, 0.4)]],
    [[(0.3, 0.05), (0.48, 0.05), (0.48, 0.97), (0.25, 0.97)], [(0.52, 0.05), (0.7, 0.05), (0.75, 0.97), (0.52, 0.97)],
     [(0.28, 0.1), (0.24, 0.9), (0.08, 0.9)], [(0.72, 0.1), (0.76, 0.9), (0.92, 0.9)]],
    [[(0.05, 0.7), (0.95, 0.6), (0.95, 0.7), (0.05, 0.8)], [(0.3, 0.45), (0.4, 0.45), (0.55, 0.62), (0.45, 0.65)],
     [(0.8, 0.4), (0.9, 0.4), (0.9, 0.6), (0.8, 0.6)]],
    [_BODY, [(0.3, 0.1), (0.28, 0.6), (0.12, 0.6)], [(0.7, 0.1), (0.72, 0.6), (0.88, 0.6)]],
    [[(0.03, 0.65), (0.35, 0.6), (0.6, 0.42), (0.95, 0.45), (0.97, 0.75), (0.03, 0.75)]],
    [[(0.1, 0.4), (0.9, 0.4), (0.95, 0.9), (0.05, 0.9)], [(0.25, 0.4), (0.3, 0.15), (0.36, 0.2), (0.33, 0.4)],
     [(0.75, 0.4), (0.7, 0.15), (0.64, 0.2), (0.67, 0.4)], [(0.3, 0.15), (0.7, 0.15), (0.7, 0.21), (0.3, 0.21)]],
    [[(0.45, 0.05), (0.9, 0.05), (0.92, 0.9), (0.05, 0.9), (0.08, 0.7), (0.45, 0.55)]],
]  # fmt: skip


def draw(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (n, 28, 28) and labels uint8 (n,), n = 60,000 for "train" and 10,000 for "test"; always the same."""
    images, labels = _digits(split) if name == "MNIST" else _silhouettes()
    rng = np.random.default_rng(["train", "test"].index(split))
    n = {"train": 60_000, "test": 10_000}[split]
    chosen = rng.permutation(np.arange(n) % len(labels))
    down, right = rng.integers(-2, 3, (2, n))
    gain = rng.uniform(0.75, 1.0, n)
    # One gather moves each image by its own shift; the base images have empty margins of at least two pixels.
    rows, columns = ((np.arange(28) - shift[:, None]) % 28 for shift in (down, right))
    moved = images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
    return (gain[:, None, None] * moved).astype(np.uint8), labels[chosen].astype(np.uint8)


def _digits(split):
    """Scikit-learn's digits as 20 x 20 pixels in the middle of 28 x 28, as MNIST's; the last 500 are the test set."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    part = slice(None, -500) if split == "train" else slice(-500, None)
    large = zoom(digits[part].reshape(-1, 8, 8) / 16 * 255, (1, 2.5, 2.5), order=1)
    return np.pad(large, ((0, 0), (4, 4), (4, 4))), labels[part]


def _silhouettes():
    """Ten silhouettes, each in twelve widths and heights."""
    from PIL import Image, ImageDraw

    images = []
    for polygons in _SILHOUETTES:
        for width, height in np.stack(np.meshgrid([17, 19, 21, 23], [19, 21, 23]), -1).reshape(-1, 2):
            image = Image.new("L", (28, 28))
            for polygon in polygons:
                corners = [(14 + (x - 0.5) * width, 14 + (y - 0.5) * height) for x, y in polygon]
                ImageDraw.Draw(image).polygon(corners, fill=255)
            images.append(np.asarray(image))
    return np.array(images), np.repeat(np.arange(10), 12)
