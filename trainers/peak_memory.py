"""The most memory that training holds at once, as a run leaves it behind in ``peak_memory.json``."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import torch

from luthier.digests import atomic_write_text

FILE_NAME = "peak_memory.json"
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak resident size to the present one


class PeakMemory:
    """Watches one worker's device from its making on.

    On a GPU it is what torch allocated there. On a CPU it is by how much the process has grown in resident size, pages
    of mapped weight files included.

    Args:
        device: Where the worker computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):  # some sandboxes forbid it: then what the imports took at most counts too
            _CLEAR_REFS.write_text(_RESET_PEAK)
        self._before_bytes = _resident_bytes("VmRSS")

    def num_bytes(self) -> int | None:
        """The most so far; None where the operating system does not tell."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        peak = _resident_bytes("VmHWM")
        return None if peak is None or self._before_bytes is None else peak - self._before_bytes

    def write(self, workdir: Path) -> None:
        """Write it into the run's directory, once the last checkpoint is written."""
        atomic_write_text(workdir / FILE_NAME, json.dumps({"peak_memory_bytes": self.num_bytes()}))


def _resident_bytes(field: str) -> int | None:
    """A field of the process's status, which Linux gives in KiB."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None
