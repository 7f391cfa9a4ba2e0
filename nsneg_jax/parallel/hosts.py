"""Several processes of one run, on one host or many: they join, agree, and wait for each other.

All processes must call every function here; a single process gets no effect.
"""

import hashlib
import itertools
import json
import os
import platform
import secrets
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import multihost_utils

from nsneg_jax.errors import RunError, Stopped, UsageError, exit_status, paragraph
from nsneg_jax.parallel.compilation_cache import keep_programs
from nsneg_jax.parallel.launch import Launch, initialize_arguments
from nsneg_jax.parallel.watch import GO_ON, Watch

PACKAGE = Path(__file__).parents[1]  # its code must be equal in all processes
SAME_DATA = "Copy the data set again where it differs, or read it from one shared folder."

_SHARED_WITHIN = 30.0  # seconds until another host must see a file
_LONG = 7 * 24 * 3600 * 1000  # ms; the watch ends futile waits
_calls = itertools.count()
_MOST_DIFFERENCES = 8


@contextmanager
def joined(
    launch: Launch,
    config: Mapping[str, Any],
    workdir: Path,
    compilation_cache: str = "",
    *,
    stoppable: bool,
) -> Iterator[None]:
    """Joins the processes of the enclosed run, if there are several, and ends them together.

    Only process 0 then writes to standard output. If one process fails or dies, all exit with a
    message and the same status, whatever they are waiting for.

    Args:
        launch: flags of the command line.
        config: plain values by name, the same in all processes.
        workdir: one folder that all processes share.
        compilation_cache: `where` of `keep_programs`.
        stoppable: whether the job saves and stops on SIGTERM, all processes at the same step.

    Raises:
        UsageError: a flag is wrong, or processes differ in config, code or workdir.
        RunError: the processes do not find each other.
    """
    arguments = initialize_arguments(launch)
    if launch.cpu_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", launch.cpu_devices)
    if arguments is not None:
        _initialize(arguments, stoppable=stoppable)
    if arguments is None or jax.process_count() == 1:
        keep_programs(compilation_cache)
        yield
        return
    index = jax.process_index()
    if index != 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    hosts = _gather(platform.node())
    with Watch(_client(), hosts, index) as watch:
        try:
            _check_alike(config)
            _check_shared(workdir, hosts)
            keep_programs(compilation_cache, alone=False)
            connect_devices()
            print(_summary(hosts), flush=True)
            yield
            sys.stdout.flush()
            wait_for_all()
        except (UsageError, RunError, OSError) as error:
            watch.fail(error, exit_status(error), paragraph(error))
        except Stopped as error:
            watch.fail(error, exit_status(error), str(error))
        except BaseException as error:
            told = f"{traceback.format_exc()}\nThis was {watch.process(index)}. {GO_ON}"
            watch.fail(error, 1, told)
    jax.distributed.shutdown()


def agree(about: str, values: Mapping[str, Any], mend: str) -> None:
    """Checks that all processes have the same values.

    Args:
        about: what the values describe, for the message.
        values: plain values by name.
        mend: how to make them equal, for the message.

    Raises:
        UsageError: values differ. All processes raise it; the message names a process that differs
            from process 0, its host and the values.
    """
    if jax.process_count() == 1:
        return
    place = f"nsneg/agree/{next(_calls)}"
    client = _client()
    index = jax.process_index()
    mine = json.loads(json.dumps(dict(values), default=str))
    client.key_value_set(f"{place}/{index}", json.dumps([platform.node(), mine]))
    if index == 0:
        all_values = [
            json.loads(client.blocking_key_value_get(f"{place}/{i}", _LONG))
            for i in range(jax.process_count())
        ]
        client.key_value_set(f"{place}/verdict", _difference(about, all_values))
    verdict = client.blocking_key_value_get(f"{place}/verdict", _LONG)
    if verdict:
        raise UsageError(f"{verdict} {mend}")


def connect_devices() -> None:
    """Connects the devices of all processes with each other.

    On CPUs the first collective gives up after 30 seconds, and compilation times may differ by more
    than that. So this waits for all processes first.
    """
    multihost_utils.sync_global_devices("nsneg/connect")


def are_several() -> bool:
    """Returns whether the run has more than one process."""
    return jax.process_count() > 1


def wait_for_all() -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"nsneg/wait/{next(_calls)}", _LONG)


def wait_for_file(path: Path) -> None:
    """Waits until every process has come here and this one sees `path`, which one has made."""
    wait_for_all()
    if not _appears(path):
        raise RunError(f"Another process made {path}, but this one cannot see it.")


def of_first(value: Any) -> Any:
    """Returns the `value` of process 0, plain values."""
    if jax.process_count() == 1:
        return value
    key = f"nsneg/first/{next(_calls)}"
    if jax.process_index() == 0:
        _client().key_value_set(key, json.dumps(value))
    return json.loads(_client().blocking_key_value_get(key, _LONG))


def _initialize(arguments: Mapping[str, Any], stoppable: bool) -> None:
    # The service only notes SIGTERM, which jobs that cannot stop would ignore.
    jax.config.update("jax_enable_preemption_service", stoppable)
    try:
        jax.distributed.initialize(**arguments)
    except Exception as error:
        where = arguments.get("coordinator_address", "the address that JAX detected")
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"The processes of the run did not find each other at {where}: {reason} Start "
            "all of them within five minutes; process 0 must run on that host, with the port free "
            "and not behind a firewall. --distributed=off runs this process alone."
        ) from error


def _client() -> Any:
    # JAX has no public name for it; orbax uses this one too.
    from jax._src import distributed

    return distributed.global_state.client


def _gather(mine: str) -> list[str]:
    place = f"nsneg/gather/{next(_calls)}"
    _client().key_value_set(f"{place}/{jax.process_index()}", mine)
    return [
        _client().blocking_key_value_get(f"{place}/{i}", _LONG) for i in range(jax.process_count())
    ]


def _check_alike(config: Mapping[str, Any]) -> None:
    agree(
        "versions and devices",
        {
            "code": _code_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "devices": jax.local_device_count(),
            "kind of device": jax.local_devices()[0].device_kind,
        },
        "Install the same versions on all hosts, and give each process the same devices.",
    )
    agree(
        "config",
        config,
        "Start all processes with the same --config and the same values of its fields.",
    )


def _code_version() -> str:
    """Hashes the source of the package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _difference(about: str, all_values: list[list[Any]]) -> str:
    """Describes how processes differ from the first; '' if none does."""
    host, first = all_values[0]
    others = [(i, *each) for i, each in enumerate(all_values) if each[1] != first]
    if not others:
        return ""
    index, other_host, other = others[0]
    names = [
        name for name in sorted(first.keys() | other.keys()) if first.get(name) != other.get(name)
    ]
    told = [f"{name} is {other.get(name)!r}, not {first.get(name)!r}" for name in names]
    told = told[:_MOST_DIFFERENCES] + ["..."] * (len(told) > _MOST_DIFFERENCES)
    more = f" {len(others) - 1} more differ from it, too." if len(others) > 1 else ""
    return (
        f"Process {index} on {other_host} differs in {about} from process 0 on {host}: "
        f"{'; '.join(told)}.{more}"
    )


def _check_shared(workdir: Path, hosts: list[str]) -> None:
    """Checks that each process sees a file that every other wrote into the workdir, or all fail."""
    token = of_first(secrets.token_hex(8))
    index = jax.process_index()
    call = workdir / f".probe-{token}"
    answer = workdir / f".probe-{token}-{index}"
    try:
        if index == 0:
            _written(call)
        wait_for_all()
        if not _appears(call):
            raise UsageError(_not_shared(workdir, index, hosts, 0))
        _written(answer)
        wait_for_all()
        if index == 0:
            for i in range(1, len(hosts)):
                if not _appears(workdir / f".probe-{token}-{i}"):
                    raise UsageError(_not_shared(workdir, 0, hosts, i))
        wait_for_all()
    finally:
        for path in (call, answer):
            if path == answer or index == 0:
                path.unlink(missing_ok=True)


def _written(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UsageError(
            f"The workdir {path.parent} cannot be written to: {error}. Give one with "
            "--workdir=DIR that every process can read and write."
        ) from error


def _appears(path: Path) -> bool:
    end = time.monotonic() + _SHARED_WITHIN
    while not path.exists():
        if time.monotonic() > end:
            return False
        if path.parent.is_dir():
            os.listdir(path.parent)  # makes a network file system refresh
        time.sleep(0.1)
    return True


def _not_shared(workdir: Path, here: int, hosts: list[str], there: int) -> str:
    return (
        f"The workdir {workdir.resolve()} is not one folder for all: process {here} on "
        f"{hosts[here]} does not see what process {there} on {hosts[there]} wrote there. Give a "
        "folder of a file system that all hosts share with --workdir=DIR."
    )


def _summary(hosts: list[str]) -> str:
    names = list(dict.fromkeys(hosts))
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"processes {len(hosts)} on {len(names)} host{'s' * (len(names) > 1)} ({shown}), "
        f"{jax.local_device_count()} of {jax.device_count()} devices each"
    )
