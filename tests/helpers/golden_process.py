"""One of several real processes that replay a golden trajectory together, for test_hosts.py."""

import argparse
from pathlib import Path

import jax
from replay import run

from nsneg_jax.parallel import hosts, mesh

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("trajectory", type=Path)
    parser.add_argument("--cpu_devices", type=int)
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    given = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", given.cpu_devices)
    jax.distributed.initialize(given.coordinator, given.num_processes, given.process_id)
    hosts.connect_devices()
    mesh.use_dtype("float64")
    assert jax.process_count() == given.num_processes
    run(given.trajectory, jax.device_count(), merge_passes=True)
    print(f"holds on {jax.device_count()} devices of {jax.process_count()} processes")
