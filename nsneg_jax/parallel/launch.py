"""Finds the other processes of a run, from flags or from the launcher."""

import glob
import importlib.util
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from nsneg_jax.errors import UsageError


class Launch(NamedTuple):
    """The flags about the processes of a run.

    Attributes:
        distributed: 'auto' joins other processes if a TPU pod, SLURM or Open MPI started several;
            'on' joins by JAX's own detection, or fails; 'off' never joins.
        coordinator: HOST:PORT where process 0 listens.
        num_processes: number of processes.
        process_id: number of this process, from 0.
        cpu_devices: number of virtual CPU devices to compute on; 0 uses the real devices.
    """

    distributed: str = "auto"
    coordinator: str = ""
    num_processes: int | None = None
    process_id: int | None = None
    cpu_devices: int = 0


def initialize_arguments(
    launch: Launch, environ: Mapping[str, str] = os.environ
) -> dict[str, Any] | None:
    """Returns the arguments of `jax.distributed.initialize`; None for a single process.

    It reads only the environment and device files, so a single process needs no network.

    Args:
        launch: the flags.
        environ: environment variables.

    Raises:
        UsageError: the flags contradict each other or the launcher.
    """
    given = [
        f"--{name}={value}"
        for name, value in launch._asdict().items()
        if name in ("coordinator", "num_processes", "process_id") and value not in (None, "")
    ]
    if launch.cpu_devices < 0:
        raise UsageError(
            f"--cpu_devices is {launch.cpu_devices}, but must be 1 or more, or 0 to use the real "
            "devices."
        )
    if launch.distributed == "off":
        if given:
            raise UsageError(
                f"--distributed=off and {given[0]} contradict each other. Leave out one of them."
            )
        return None
    if given:
        return _by_flags(launch, given, environ)
    if launch.distributed == "on":
        return {}
    if _number(environ, "SLURM_STEP_NUM_TASKS") > 1 and "SLURM_STEP_NODELIST" in environ:
        return _by_slurm(environ)
    if _number(environ, "OMPI_COMM_WORLD_SIZE") > 1:
        if "OMPI_MCA_orte_hnp_uri" in environ:
            return _local_devices(environ)
        raise UsageError(
            "Open MPI started several processes, but this version of it does not say where. Add "
            "--coordinator=HOST:PORT, with the host of rank 0 and a free port of it."
        )
    _check_no_other_launcher(environ)
    on_cpu = launch.cpu_devices or environ.get("JAX_PLATFORMS") == "cpu"
    return {} if _is_tpu_host() and not on_cpu else None


def _by_flags(launch: Launch, given: list[str], environ: Mapping[str, str]) -> dict | None:
    size, index = launch.num_processes, launch.process_id
    # Launchers number the processes, so that all can run the same command.
    numbers = (launcher[1:] for launcher in _OTHERS)
    for prefix in (("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), _OPEN_MPI, *numbers):
        if all(name in environ for name in prefix):
            size = int(environ[prefix[0]]) if size is None else size
            index = int(environ[prefix[1]]) if index is None else index
    absent = [
        f"--{name}"
        for name, value in (
            ("coordinator=HOST:PORT", launch.coordinator),
            ("num_processes=P", size),
            ("process_id=I", index),
        )
        if value in (None, "")
    ]
    if absent or size is None or index is None:
        raise UsageError(
            f"{', '.join(given)} must come with {' and '.join(absent)}: the address of process 0, "
            "the number of processes, and the number of this one, from 0. Give none of them for a "
            "single process."
        )
    if size < 1:
        raise UsageError(f"--num_processes is {size}, but must be 1 or more.")
    if not 0 <= index < size:
        raise UsageError(
            f"--process_id is {index}, but must be from 0 to {size - 1}, since --num_processes is "
            f"{size}. Give each process its own number."
        )
    host, _, port = launch.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--coordinator is {launch.coordinator!r}, but must be HOST:PORT, the host of process "
            "0 and a free port of it, such as node1:8476."
        )
    if size == 1:
        return None
    return {
        "coordinator_address": launch.coordinator,
        "num_processes": size,
        "process_id": index,
        "cluster_detection_method": "deactivate",
        **(_bind(host, port, environ) if index == 0 else {}),
        **_local_devices(environ),
    }


def _bind(host: str, port: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Makes the coordinator listen where it was told to, where JAX would on every interface.

    A host may know itself by a loopback address only (Debian's /etc/hosts), or be reached through
    an address that is not its own. Nothing else is then known, so JAX's default stays, with a
    note. JAX_COORDINATOR_BIND_ADDRESS, which JAX reads, decides instead if it is set.
    """
    if "JAX_COORDINATOR_BIND_ADDRESS" in environ:
        return {}
    address = own_address(host.strip("[]"))
    if address is None:
        print(
            f"note: the coordinator listens on all interfaces of this host, because {host} is not "
            "the address of one; JAX_COORDINATOR_BIND_ADDRESS=ADDRESS:PORT chooses it",
            file=sys.stderr,
        )
        return {}
    address = f"[{address}]" if ":" in address else address
    return {"coordinator_bind_address": f"{address}:{port}"}


def own_address(host: str) -> str | None:
    """Returns the address of this host's interface that a name or an address stands for.

    Args:
        host: name or address of this host. A name that stands for a loopback address does not
            count, unless it is 'localhost': other hosts may know it by another address.

    Returns:
        An IPv4 or IPv6 address; None if there is none.
    """
    try:
        found = [info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return None
    is_given = host == "localhost" or str(host) in found
    for each in dict.fromkeys(map(str, found)):
        address = ipaddress.ip_address(each.partition("%")[0])
        if address.is_loopback and not is_given:
            continue
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind((each, 0))
        except OSError:
            continue
        return each
    return None


_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
# Launchers that say how many processes they started, but not where the first one can be reached by
# JAX: name, and variables with the number of processes and the number of this one.
_OTHERS = (
    ("torchrun", "WORLD_SIZE", "RANK"),
    ("MPICH (or another launcher with PMI)", "PMI_SIZE", "PMI_RANK"),
    ("MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
_PMIX = "PMIX_RANK"  # has no variable with the number of processes


def _check_no_other_launcher(environ: Mapping[str, str]) -> None:
    """Raises UsageError if each of several processes would take itself for the whole run."""
    flags = "Add --coordinator=HOST:PORT, with the host of process 0 and a free port of it"
    alone = "--distributed=off runs each process alone; give each its own --workdir then."
    for launcher, size, rank in _OTHERS:
        if _number(environ, size) > 1 and rank in environ:
            raise UsageError(
                f"{launcher} started {environ[size]} processes ({size}={environ[size]}, {rank}="
                f"{environ[rank]}), but does not say where. {flags}. {alone}"
            )
    known = {"SLURM_STEP_NUM_TASKS", _OPEN_MPI[0], *(size for _, size, _ in _OTHERS)}
    if _number(environ, _PMIX) > 0 and not known & environ.keys():
        raise UsageError(
            f"A launcher with PMIx started several processes, of which this is number "
            f"{environ[_PMIX]} ({_PMIX}). {flags}, --num_processes=P and --process_id=${_PMIX}. "
            f"{alone}"
        )


def _local_devices(environ: Mapping[str, str]) -> dict[str, list[int]]:
    """Gives each Open MPI process one GPU if its host has several processes, else all GPUs."""
    if _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE") > 1:
        return {"local_device_ids": [int(environ["OMPI_COMM_WORLD_LOCAL_RANK"])]}
    return {}


def _by_slurm(environ: Mapping[str, str]) -> dict[str, list[int]]:
    """Gives the only task of a node all GPUs, where JAX would give it one; JAX finds the rest."""
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")[0].partition("(")[0]
    gpus = _number(environ, "SLURM_GPUS_ON_NODE")
    return {"local_device_ids": list(range(gpus))} if tasks == "1" and gpus else {}


def _is_tpu_host() -> bool:
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else 0
