"""The memory that a process has taken at its peak."""

import resource
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Largest resident size of this process so far, or since it was last forgotten, in bytes.

    What Linux says of the process, and not `ru_maxrss`, which a child inherits from the process that started it.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Let the peak be counted from here, where the system can."""
    if _RESET.exists():
        _RESET.write_text("5")
