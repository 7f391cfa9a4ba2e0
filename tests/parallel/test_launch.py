"""Which processes a run has, from flags and from what launchers leave in the environment."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nsneg_jax.errors import UsageError
from nsneg_jax.parallel import launch
from nsneg_jax.parallel.launch import Launch, initialize_arguments

SLURM = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node1"}
ROOT = Path(launch.__file__).parents[2]
THERE = "node1:8476"


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch):
    monkeypatch.setattr(launch, "_is_tpu_host", lambda: False)


@pytest.mark.parametrize(
    ("given", "environ"),
    [
        (Launch(), {}),
        (Launch("off"), SLURM),
        (Launch(cpu_devices=4), {}),
        (Launch(coordinator=THERE, num_processes=1, process_id=0), {}),
        # a job of several tasks, but not started by srun; a step of one
        (Launch(), {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}),
        (Launch(), SLURM | {"SLURM_STEP_NUM_TASKS": "1"}),
        (Launch(), OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}),
        (Launch(), TORCHRUN | {"WORLD_SIZE": "1"}),
        (Launch(), {"WORLD_SIZE": "4"}),  # of some cluster, that says nothing of this process
        (Launch(), {"PMI_SIZE": "1", "PMI_RANK": "0"}),
        (Launch(), {"PMIX_RANK": "0"}),
        (Launch(), SLURM | {"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "1"}),
        (Launch("off"), TORCHRUN),
    ],
)
def test_alone(given, environ):
    assert initialize_arguments(given, environ) is None


def test_flags_say_all():
    found = initialize_arguments(Launch("auto", THERE, 2, 1), {})
    assert found == {
        "coordinator_address": THERE,
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("environ", "size", "index", "local"),
    [
        (OPEN_MPI, 4, 3, [1]),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, 4, 3, None),
        (TORCHRUN, 4, 3, None),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, 2, 0, None),
    ],
)
def test_launchers_number_the_processes(environ, size, index, local):
    found = initialize_arguments(Launch(coordinator=THERE), environ)
    assert (found["num_processes"], found["process_id"]) == (size, index)
    assert found.get("local_device_ids") == local


def test_detected():
    # one task a node has all its GPUs; of several each has the one JAX gives it
    assert initialize_arguments(Launch(), SLURM) == {}
    gpus = SLURM | {"SLURM_GPUS_ON_NODE": "8"}
    assert initialize_arguments(Launch(), gpus) == {"local_device_ids": list(range(8))}
    several = gpus | {"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}
    assert initialize_arguments(Launch(), several) == {}
    mpi = OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
    assert initialize_arguments(Launch(), mpi) == {"local_device_ids": [1]}


def test_tpu_hosts(monkeypatch):
    monkeypatch.setattr(launch, "_is_tpu_host", lambda: True)
    assert initialize_arguments(Launch(), {}) == {}
    assert initialize_arguments(Launch(cpu_devices=2), {}) is None
    assert initialize_arguments(Launch(), {"JAX_PLATFORMS": "cpu"}) is None


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        (Launch(coordinator=THERE), {}, "--num_processes=P and --process_id=I"),
        (Launch(num_processes=2), {}, "--coordinator=HOST:PORT and --process_id=I"),
        (Launch(process_id=0), {}, "--process_id=0 .*--coordinator"),
        (Launch("auto", THERE, 2, 2), {}, "--process_id is 2, but must be from 0 to 1"),
        (Launch("auto", THERE, 0, 0), {}, "--num_processes is 0"),
        (Launch("auto", "node1", 2, 0), {}, "--coordinator is 'node1', but must be HOST:PORT"),
        (Launch("auto", "node1:port", 2, 0), {}, "'node1:port'"),
        (Launch("off", THERE, 2, 0), {}, "--distributed=off and --coordinator=node1:8476"),
        (Launch(cpu_devices=-1), {}, "--cpu_devices is -1"),
        (Launch(), OPEN_MPI, "Add --coordinator=HOST:PORT"),
        (Launch(), TORCHRUN, "WORLD_SIZE=4, RANK=3.*Add --coordinator=HOST:PORT"),
        (Launch(), {"PMI_SIZE": "2", "PMI_RANK": "0"}, "PMI_SIZE=2.*Add --coordinator"),
        (Launch(), {"PMIX_RANK": "1"}, "PMIX_RANK.*--process_id"),
    ],
)
def test_mistakes(given, environ, expected):
    with pytest.raises(UsageError, match=expected):
        initialize_arguments(given, environ)


@pytest.mark.parametrize(
    ("said", "status", "requeued"),
    [
        ("done: 20 steps", 0, False),
        ("stopped by a signal after step 7 of 20, with everything saved", 75, True),
        ("error: process 1 on node2 has died", 1, True),
        ("error: batch_size is 3", 2, False),
    ],
)
def test_the_sbatch_file_requeues_what_is_not_finished(tmp_path, said, status, requeued):
    """With stand-ins for srun and scontrol."""
    log = tmp_path / "nsneg-5.log"
    stand_ins = {
        "srun": f'echo "{said}" >> {log}; echo "$@" > {tmp_path}/srun.txt; exit {status}',
        "scontrol": f'echo "$@" > {tmp_path}/scontrol.txt',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "5",
        "SLURM_CPUS_PER_TASK": "4",
    }
    script = Path(__file__).parents[2] / "docs" / "launch.sbatch"
    command = ["bash", script, "--workdir=runs/a b"]
    ended = subprocess.run(command, cwd=tmp_path, env=environ)
    assert ended.returncode == status
    assert "main.py --workdir=runs/a b\n" in (tmp_path / "srun.txt").read_text()
    asked = tmp_path / "scontrol.txt"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 5\n" if requeued else "")


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        ("127.0.0.1:8476", "127.0.0.1:8476"),
        ("localhost:8476", "127.0.0.1:8476"),
        ("no-such-host.invalid:8476", None),
        ("192.0.2.1:8476", None),  # of documentation, never an own one
    ],
)
def test_the_coordinator_listens_where_it_was_told_to(given, bound, capsys):
    found = initialize_arguments(Launch("auto", given, 2, 0), {})
    assert found.get("coordinator_bind_address") == bound
    assert ("all interfaces" in capsys.readouterr().err) == (bound is None)
    assert "coordinator_bind_address" not in initialize_arguments(Launch("auto", given, 2, 1), {})
    environ = {"JAX_COORDINATOR_BIND_ADDRESS": "127.0.0.1:1"}
    assert "coordinator_bind_address" not in initialize_arguments(
        Launch("auto", given, 2, 0), environ
    )


def test_a_name_of_a_loopback_address_alone_is_not_bound(monkeypatch):
    """Debian's /etc/hosts has 127.0.1.1 for the host; others reach it by another address."""
    answers = {"here": ["127.0.1.1"], "both": ["127.0.1.1", "127.0.0.1"], "::1": ["::1"]}

    def resolve(host, *_, **__):
        return [(None, None, None, "", (address, 0)) for address in answers[host]]

    monkeypatch.setattr(launch.socket, "getaddrinfo", resolve)
    assert launch.own_address("here") is None
    assert launch.own_address("both") is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_nothing_else_listens():
    """The kernel's list of listening sockets of a coordinator that waits for the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import jax, sys\n"
        "from nsneg_jax.parallel.launch import Launch, initialize_arguments\n"
        f"given = initialize_arguments(Launch('auto', '127.0.0.1:{port}', 2, 0), {{}})\n"
        "jax.distributed.initialize(**given, initialization_timeout=60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        addresses = []
        end = time.monotonic() + 60
        while not addresses and time.monotonic() < end:
            assert process.poll() is None
            addresses = listening(port)
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert len(addresses) == 1
    # 127.0.0.1, which gRPC writes as an address of IPv6
    assert addresses[0] in ("0100007F", "0000000000000000FFFF00000100007F")


def listening(port):
    """Addresses in hexadecimal on which a port is listened to."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.partition(":")[2], 16) == port:
                found.append(address.partition(":")[0])
    return found
