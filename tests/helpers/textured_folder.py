"""A folder of pictures whose classes differ in texture alone, so that patches keep the label.

    python tests/helpers/textured_folder.py FOLDER [PICTURES_PER_CLASS]

Each picture is grey and has a random blob. The class is the wavelength and orientation of the noise
that fills the blob; its place, outline, brightness and contrast say nothing about the class. The
wavelengths are shorter than most patches of a patch negative.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

# wavelength in pixels at 32, and whether waves run across or down
CLASSES = {
    f"{name}-{length:g}": (length, across)
    for length in (2.5, 3.5, 5.0)
    for name, across in (("across", True), ("down", False))
}
_BAND = 0.15  # relative width of the band of frequencies
_TURN = 0.35  # radians of deviation from the orientation


def write_textured(root: Path, per_class: int, side: int = 32, seed: int = 0) -> Path:
    """Writes ROOT/CLASS/NUMBER.png; returns ROOT."""
    for label, (name, (length, across)) in enumerate(CLASSES.items()):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            rng = np.random.default_rng((seed, label, number))
            picture = textured(rng, side, length, across)
            Image.fromarray(picture).save(root / name / f"{number:05d}.png")
    return root


def textured(rng: np.random.Generator, side: int, length: float, across: bool) -> np.ndarray:
    """One picture, uint8 [S, S, 3], grey; `length` is the wavelength in pixels at 32."""
    ground, dark, bright = rng.uniform((0, 20, 145), (255, 110, 235))
    share = 0.5 + rng.uniform(0.5, 1) * _noise(rng, side, length * side / 32, across)
    inside = dark + np.clip(share, 0, 1) * (bright - dark)
    picture = np.where(_blob(rng, side), inside, ground)
    return np.repeat(np.rint(picture).astype(np.uint8)[..., None], 3, axis=2)


def _noise(rng: np.random.Generator, side: int, length: float, across: bool) -> np.ndarray:
    """Noise of one wavelength and orientation, of deviation 0.5."""
    down, right = np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :]
    along, other = (right, down) if across else (down, right)
    frequency = np.hypot(along, other)
    angle = np.arctan2(np.abs(other), np.abs(along))
    passed = np.exp(-(((frequency * length - 1) / _BAND) ** 2) - (angle / _TURN) ** 2)
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * passed).real
    return 0.5 * field / field.std()


def _blob(rng: np.random.Generator, side: int) -> np.ndarray:
    """A random outline around a random centre, bool [S, S]."""
    y, x = np.mgrid[:side, :side] / side - rng.uniform(0.4, 0.6, (2, 1, 1))
    turn = np.arctan2(y, x)
    radius = rng.uniform(0.3, 0.42)
    for waves in (1, 2, 3, 4):
        radius = radius + rng.uniform(0, 0.06) * np.cos(waves * turn + rng.uniform(0, 2 * np.pi))
    return np.hypot(y, x) < radius


if __name__ == "__main__":
    write_textured(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 400)
