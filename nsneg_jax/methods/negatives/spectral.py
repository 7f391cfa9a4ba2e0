"""Negatives that keep a part of an image's spectrum.

Filters and transforms are products with constant matrices, one per axis. Every platform multiplies
matrices well, and the batch stays split: XLA does not split FFTs over devices but sends every image
to each of them. At 224 pixels a Gaussian takes 0.13 GFLOP per image and a change of phases
0.41 to 0.48, where a forward pass of ResNet-50 takes 8.2.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from nsneg_jax.methods.negatives.maker import Reads

_product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
# A Gaussian is cut off here, in standard deviations, as in SciPy's gaussian_filter.
_REACH = 4.0


@dataclass(frozen=True)
class LowFrequency:
    """The view blurred by a wide Gaussian: its colours and coarse layout, no edges and no detail.

    It is the low-pass of Geirhos et al. 2018, "Generalisation in humans and deep neural networks",
    whose standard deviations go from 1 to 40 pixels at 224. Beyond the edge the view is mirrored.

    Attributes:
        sigma: standard deviation of the Gaussian in pixels, greater than 0.
    """

    sigma: float
    name: str = "low_frequency"
    reads: Reads = "query"

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Blurs images [N, S, S, C]; draws nothing. See `Negative`."""
        return _blurred(_wide(images), self.sigma).astype(images.dtype)


@dataclass(frozen=True)
class HighFrequency:
    """The view less its blur, plus its mean colour: edges and fine texture, no coarse layout.

    It is the high-pass of Geirhos et al. 2018, whose standard deviations go from 0.4 to 3 pixels at
    224. Outlines, and so shapes, can still be seen in it.

    Attributes:
        sigma: standard deviation in pixels of the Gaussian that is taken away, greater than 0.
    """

    sigma: float
    name: str = "high_frequency"
    reads: Reads = "query"

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Takes the blur away from images [N, S, S, C]; draws nothing. See `Negative`."""
        x = _wide(images)
        mean = x.mean(axis=(1, 2), keepdims=True)
        return (x - _blurred(x, self.sigma) + mean).astype(images.dtype)


@dataclass(frozen=True)
class AmplitudeOnly:
    """The amplitudes of the view's Fourier coefficients with random phases.

    It has the view's mean colour and power spectrum, and no place where anything is. The phases are
    those of white noise, added to the view's own in all three channels alike, so the channels keep
    their correlations (phase scrambling, as in Geirhos et al. 2018).
    """

    name: str = "amplitude_only"
    reads: Reads = "query"

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Scrambles the phases of images [N, S, S, C]; see `Negative`."""
        x = _wide(images)
        side = x.shape[1]
        # float32 always, so that the draws do not depend on `jax_enable_x64`
        draw = jax.vmap(lambda key: jax.random.normal(key, (side, side), jnp.float32))
        noise = _transformed(draw(keys).astype(x.dtype)[..., None])
        turn = _directions(noise)
        real, imaginary = _transformed(x)
        turned = (
            real * turn[0] - imaginary * turn[1],
            real * turn[1] + imaginary * turn[0],
        )
        return _image_of(turned, side).astype(images.dtype)


@dataclass(frozen=True)
class PhaseOnly:
    """The phases of the view's Fourier coefficients with equal amplitudes.

    It has the view's mean colour and contrast per channel, a white spectrum, and its edges where
    they were: shapes can still be seen (Oppenheim and Lim 1981, "The importance of phase in
    signals"). So it is the opposite of a negative without meaning, and serves as a control.
    """

    name: str = "phase_only"
    reads: Reads = "query"

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Makes the amplitudes of images [N, S, S, C] equal; draws nothing. See `Negative`."""
        x = _wide(images)
        side = x.shape[1]
        mean = x.mean(axis=(1, 2), keepdims=True)
        deviation = x - mean
        directions = _directions(_transformed(deviation))
        # Coefficients of length 1, without the mean's, have the variance (S^2 - 1) / S^4.
        white = side**2 / (side**2 - 1) ** 0.5 * _image_of(directions, side)
        white = white - white.mean(axis=(1, 2), keepdims=True)
        contrast = jnp.sqrt(jnp.square(deviation).mean(axis=(1, 2), keepdims=True))
        return (mean + contrast * white).astype(images.dtype)


Spectrum = tuple[jax.Array, jax.Array]  # real and imaginary part


def _wide(images: jax.Array) -> jax.Array:
    return images.astype(jnp.promote_types(images.dtype, jnp.float32))


def _blurred(x: jax.Array, sigma: float) -> jax.Array:
    rows = jnp.asarray(_gaussian(x.shape[1], sigma), x.dtype)
    columns = jnp.asarray(_gaussian(x.shape[2], sigma), x.dtype)
    return _product("ij,njkc,lk->nilc", rows, x, columns)


def _gaussian(length: int, sigma: float) -> np.ndarray:
    """Returns the matrix [length, length] of a Gaussian filter that mirrors the line at its ends.

    The pixels at the ends are repeated: d c b a | a b c d | d c b a, SciPy's mode 'reflect'.
    """
    reach = int(_REACH * sigma + 0.5)
    distance = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * np.square(distance / sigma))
    place = (np.arange(length)[:, None] + distance) % (2 * length)
    place = np.where(place < length, place, 2 * length - 1 - place)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], place), weights / weights.sum())
    return matrix


def _transformed(x: jax.Array) -> Spectrum:
    """Returns the discrete Fourier transform over the sides of x [N, S, S, C].

    As in `numpy.fft.rfft2`, the last axis of the transform has its first S // 2 + 1 frequencies:
    [N, S, S // 2 + 1, C].
    """
    side = x.shape[1]
    cosine, sine = _waves(side, x.dtype)
    half = side // 2 + 1
    real = _product("nijc,jl->nilc", x, cosine[:, :half])
    imaginary = -_product("nijc,jl->nilc", x, sine[:, :half])
    return (
        _product("ki,nilc->nklc", cosine, real) + _product("ki,nilc->nklc", sine, imaginary),
        _product("ki,nilc->nklc", cosine, imaginary) - _product("ki,nilc->nklc", sine, real),
    )


def _image_of(spectrum: Spectrum, side: int) -> jax.Array:
    """Inverts `_transformed`: [N, S, S // 2 + 1, C] to [N, S, S, C]."""
    real, imaginary = spectrum
    cosine, sine = _waves(side, real.dtype)
    half = side // 2 + 1
    rows = (
        _product("ik,nklc->nilc", cosine, real) - _product("ik,nklc->nilc", sine, imaginary),
        _product("ik,nklc->nilc", cosine, imaginary) + _product("ik,nklc->nilc", sine, real),
    )
    # The other frequencies of the last axis are the conjugates of these, except that the first, and
    # the middle one of an even side, stand alone.
    twice = np.full(half, 2.0)
    twice[0] = 1
    if side % 2 == 0:
        twice[-1] = 1
    weights = jnp.asarray(twice / side**2, real.dtype)[:, None]
    return _product("nilc,lj->nijc", rows[0], weights * cosine[:half]) - _product(
        "nilc,lj->nijc", rows[1], weights * sine[:half]
    )


def _waves(side: int, dtype: DTypeLike) -> Spectrum:
    """Returns cos and sin of 2 pi k i / side, [side, side] each."""
    # The product modulo the side keeps the angles, and so the rounding of their cosines, small.
    angle = 2 * np.pi / side * (np.outer(np.arange(side), np.arange(side)) % side)
    return jnp.asarray(np.cos(angle), dtype), jnp.asarray(np.sin(angle), dtype)


def _directions(spectrum: Spectrum) -> Spectrum:
    """Scales each coefficient to length 1, those of a zero spectrum to 1 + 0i; the mean's is 1."""
    real, imaginary = spectrum
    length = jnp.sqrt(jnp.square(real) + jnp.square(imaginary))
    # what rounding leaves of a coefficient that is zero has no phase
    floor = 1e-6 * jnp.sqrt(jnp.square(length).mean(axis=(1, 2), keepdims=True))
    known = length > floor
    divisor = jnp.where(known, length, 1)
    real = jnp.where(known, real / divisor, 1).at[:, 0, 0].set(1)
    imaginary = jnp.where(known, imaginary / divisor, 0).at[:, 0, 0].set(0)
    return real, imaginary
