"""What views are compared with: photographs, and what Pillow and NumPy make of them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import data
from sklearn.datasets import load_sample_image

from nsneg_jax.methods.operations.colour import images_of, planes_of


@cache
def photographs(height=96, width=128):
    """uint8 [4, height, width, 3]."""
    pictures = (load_sample_image("china.jpg"), load_sample_image("flower.jpg"))
    pictures += (data.astronaut(), data.chelsea())
    resized = [Image.fromarray(p).resize((width, height), Image.BICUBIC) for p in pictures]
    return np.stack([np.asarray(p) for p in resized])


def as_float(crops):
    return jnp.asarray(crops, jnp.float32) / 255


def levels(images):
    """Grey levels 0..255, not rounded."""
    return np.asarray(images, np.float64) * 255


def by_pillow(operation, crops, values):
    """`operation` (Pillow image, value) on each of the uint8 crops, as float64."""
    pairs = zip(crops, values, strict=True)
    return np.stack([np.asarray(operation(Image.fromarray(c), v), np.float64) for c, v in pairs])


def pillow_hue(picture, turns):
    hsv = np.array(picture.convert("HSV")).astype(int)
    hsv[..., 0] = (hsv[..., 0] + round(turns * 255)) % 255  # Pillow's full turn has 255 steps
    return Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")


def on_images(operation):
    """An operation on planes as one on images, compiled anew for each test."""
    return jax.jit(lambda x, *given: images_of(operation(planes_of(x), *given)))


def box_of(sigma):
    """Weights of Pillow's box filter, of any radius: equal ones, and a fraction at both ends."""
    variance = float(sigma) ** 2 / 3
    whole = int((np.sqrt(12 * variance + 1) - 1) // 2)
    # the fraction with which the variance of the box, by its definition, is the wanted one
    squares = 2 * sum(d**2 for d in range(1, whole + 1))
    fraction = ((2 * whole + 1) * variance - squares) / (2 * ((whole + 1) ** 2 - variance))
    weights = np.array([fraction, *[1] * (2 * whole + 1), fraction])
    return weights / weights.sum()


def three_boxes(image, sigma, rounded=False):
    """The blur of one picture [H, W, C] in NumPy; `rounded` to whole levels after each pass."""
    for axis in (1, 0):
        for _ in range(3):
            image = ndimage.correlate1d(image, box_of(sigma), axis=axis, mode="nearest")
            image = np.floor(image + 0.5) if rounded else image
    return image
