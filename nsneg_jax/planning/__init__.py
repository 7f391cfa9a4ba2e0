"""Plans pre-training runs, and the programs of all jobs, before they run."""

from typing import NamedTuple


class PlanOptions(NamedTuple):
    """Options of a plan; see docs/planning.md.

    Attributes:
        devices: number of devices.
        images: number of images in the data set; 0 = from its name.
        hosts: number of hosts; 0 = one per 8 devices.
        step_seconds: time of a step; 0 = time of the FLOPs at 50 TFLOP/s, or the least possible
            time on a target.
        target: accelerators by name in place of `devices`, such as 'h100:8'; '' = the CPU.
        command: command that took the flags, for messages: 'main.py' or 'plan'.
    """

    devices: int = 1
    images: int = 0
    hosts: int = 0
    step_seconds: float = 0.0
    target: str = ""
    command: str = "main.py"

    def flag(self, name: str) -> str:
        """Returns the flag that sets a field."""
        if self.command == "plan":
            return f"--{name}"
        return "--plan" if name == "target" else f"--plan_{name}"
