"""Plans of pre-training runs and of the programs of all jobs, before they are run."""

from typing import NamedTuple


class PlanOptions(NamedTuple):
    """What a plan is made for; see docs/planning.md.

    Attributes:
        devices: to plan for.
        images: of the data set; 0 = found from its name.
        hosts: that hold the devices; 0 = one for each 8 devices.
        step_seconds: time of a step; 0 = what the FLOPs take at 50 TFLOP/s, or of a target the
            least it can take.
        target: accelerators by name in place of `devices`, such as 'h100:8'; '' = the CPU.
        command: whose flags gave the above, for messages: 'main.py' or 'plan'.
    """

    devices: int = 1
    images: int = 0
    hosts: int = 0
    step_seconds: float = 0.0
    target: str = ""
    command: str = "main.py"

    def flag(self, name: str) -> str:
        """The flag that sets a field."""
        if self.command == "plan":
            return f"--{name}"
        return "--plan" if name == "target" else f"--plan_{name}"
