"""Peak memory of a device or of the process."""

import resource
import sys

import jax


def peak_of(device: jax.Device) -> int:
    """Returns the most bytes in use on `device`; on CPU, by the process."""
    stats = device.memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return peak_of_process()


def peak_of_process() -> int:
    """Returns the largest resident size of the process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB
