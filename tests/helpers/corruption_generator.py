"""Corruptions as the authors' generator computes them, where corrupt-tta does something else.

corrupt-tta 0.1.7 blurs along a line with equal weights (ImageMagick weights by half a Gaussian, so
that its severities 2 to 4 differ), swaps pixels in glass blur (in the generator NumPy's views turn
the swap into a copy), has a spatter of its own making, and multiplies by 224 in the elastic
transform (the generator by 244). What follows is NumPy, SciPy and OpenCV, from the parameters.
"""

import cv2
import numpy as np
from scipy import ndimage

GLASS = {1: (0.7, 1, 2), 2: (0.9, 2, 1), 3: (1, 2, 3), 4: (1.1, 3, 2), 5: (1.5, 4, 2)}
MOTION = {1: (10, 3), 2: (15, 5), 3: (15, 8), 4: (15, 12), 5: (20, 15)}
SNOW = {
    1: (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    2: (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    3: (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    4: (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    5: (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
}
SPATTER = {
    1: (0.65, 0.3, 4, 0.69, 0.6),
    2: (0.65, 0.3, 3, 0.68, 0.6),
    3: (0.65, 0.3, 2, 0.68, 0.5),
    4: (0.65, 0.3, 1, 0.65, 1.5),
    5: (0.67, 0.4, 1, 0.65, 1.5),
}
ELASTIC = {
    1: (488, 170.8, 24.4),
    2: (488, 19.52, 48.8),
    3: (12.2, 2.44, 4.88),
    4: (17.08, 2.44, 4.88),
    5: (29.28, 2.44, 4.88),
}


def motion(x: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """ImageMagick's motion blur of levels 0..255, [S, S] or [S, S, 3]."""
    taps = 2 * radius + 1
    weights = np.exp(-(np.arange(taps) ** 2) / (2 * sigma**2))
    side = np.arange(len(x))
    total = 0
    for i, weight in enumerate(weights / weights.sum()):
        down = int(np.ceil(i * np.sin(np.deg2rad(angle)) - 0.5))
        right = int(np.ceil(i * np.cos(np.deg2rad(angle)) - 0.5))
        rows, columns = (np.clip(side + shift, 0, side[-1]) for shift in (down, right))
        total = total + weight * x[rows][:, columns].astype(float)
    return np.round(total)


def glass_pass(x: np.ndarray, down: np.ndarray, right: np.ndarray, shift: int) -> np.ndarray:
    """One pass over [S, S] or [S, S, 3] in the generator's order, copying instead of swapping."""
    x = x.copy()
    for row in range(len(x) - shift, shift, -1):
        for column in range(len(x) - shift, shift, -1):
            x[row, column] = x[row + down[row, column], column + right[row, column]]
    return x


def water(x: np.ndarray, liquid: np.ndarray, least: float, strength: float) -> np.ndarray:
    """Water spatter of x [S, S, 3] in [0, 1] for a given liquid [S, S]."""
    levels = (np.where(liquid < least, 0, liquid) * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(levels, 50, 150), cv2.DIST_L2, 5)
    relief = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    relief = cv2.filter2D(relief, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    drops = levels * cv2.blur(relief, (3, 3)).astype(float)
    drops *= strength / drops.max()
    return np.clip(x + drops[..., None] * np.array([175, 238, 238]) / 255, 0, 1)


def mud(x: np.ndarray, liquid: np.ndarray, least: float, sigma: float) -> np.ndarray:
    """Mud spatter of x [S, S, 3] in [0, 1] for a given liquid [S, S]."""
    mask = ndimage.gaussian_filter((liquid > least).astype(float), sigma, mode="nearest")
    mask = np.where(mask < 0.8, 0, mask)[..., None]
    return x * (1 - mask) + mask * np.array([63, 42, 20]) / 255


def glass_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    sigma, shift, passes = GLASS[severity]
    x = np.uint8(_blur(image, sigma))
    for _ in range(passes):
        x = glass_pass(x, *rng.integers(-shift, shift, (2, *x.shape[:2])), shift)
    return _blur(x, sigma)


def motion_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    return motion(image, *MOTION[severity], rng.uniform(-45, 45))


def snow(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    mean, deviation, size, least, radius, sigma, weight = SNOW[severity]
    x = image / 255
    side = len(x)
    window = int(np.ceil(side / size))
    start = (side - window) // 2
    flakes = rng.normal(mean, deviation, (side, side))[start:, start:][:window, :window]
    flakes = ndimage.zoom(flakes, size, order=1)
    start = (len(flakes) - side) // 2
    flakes = flakes[start : start + side, start : start + side]
    flakes = np.uint8(255 * np.clip(np.where(flakes < least, 0, flakes), 0, 1))
    flakes = motion(flakes, radius, sigma, rng.uniform(-135, -45))[..., None] / 255
    gray = x @ np.array([0.299, 0.587, 0.114])
    x = weight * x + (1 - weight) * np.maximum(x, 1.5 * gray[..., None] + 0.5)
    return 255 * np.clip(x + flakes + np.rot90(flakes, 2), 0, 1)


def spatter(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    mean, deviation, sigma, least, last = SPATTER[severity]
    liquid = rng.normal(mean, deviation, image.shape[:2])
    liquid = ndimage.gaussian_filter(liquid, sigma, mode="nearest")
    return 255 * (mud if severity > 3 else water)(image / 255, liquid, least, last)


def elastic_transform(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    strength, sigma, corner = ELASTIC[severity]
    x = np.float32(image)
    side = len(x)
    middle, arm = side // 2, side // 3
    points = np.float32([[middle + arm] * 2, [middle + arm, middle - arm], [middle - arm] * 2])
    moved = points + np.float32(rng.uniform(-corner, corner, (3, 2)))
    affine = cv2.getAffineTransform(points, moved)
    x = cv2.warpAffine(x, affine, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    field = rng.uniform(-1, 1, (2, side, side))
    blur = {"mode": "reflect", "truncate": 3}
    down, right = (strength * ndimage.gaussian_filter(f, sigma, **blur) for f in field)
    rows, columns = np.mgrid[:side, :side]
    sources = (rows + down, columns + right)
    planes = [
        ndimage.map_coordinates(x[..., c], sources, order=1, mode="reflect") for c in range(3)
    ]
    return np.stack(planes, axis=-1)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest")
