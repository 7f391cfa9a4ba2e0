"""Class lists, and scripts that prepare data sets: see docs/data.md."""
