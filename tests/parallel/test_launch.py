"""Which processes a run has, from flags and from what launchers leave in the environment."""

import os
import subprocess
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
