"""Peak memory of a process."""

import resource
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Return the largest resident size of this process so far, or since `forget_peak`, in bytes.

    On Linux this is not `ru_maxrss`, which a child inherits from its parent.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Reset the peak to the present size, if the system can."""
    if _RESET.exists():
        _RESET.write_text("5")
