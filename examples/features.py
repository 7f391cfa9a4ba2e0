"""Computes the features of a folder's photographs with an encoder that you trained or imported.

    python -m examples.features runs/patch photographs features.npy

The first argument goes to `load_pretrained`: a workdir, a checkpoint folder or a PyTorch file.
"""

import sys
from pathlib import Path

import numpy as np

from nsneg_jax import load_pretrained

if len(sys.argv) != 4:
    sys.exit(__doc__)
encoder, folder, out = sys.argv[1:]
photographs = sorted(Path(folder).rglob("*.jpg"))
features = load_pretrained(encoder).embed(photographs)
np.save(out, features)
print(f"{features.shape[0]} photographs, {features.shape[1]} features each, in {out}")
