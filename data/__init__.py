"""Class lists and scripts that prepare data sets: docs/data.md. Installed as nsneg_jax.prepare."""
