"""The health of a node's GPUs, as NVIDIA's management library tells it."""

from __future__ import annotations

import importlib.util
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: Its number on the node.
        name: Its model.
        total_bytes: Memory.
        free_bytes: Memory that nobody uses.
        uncorrected_errors: ECC errors since the last reset that could not be corrected.
        remap_failed: Whether a damaged row of memory could not be replaced.
        remap_pending: Whether one waits for the GPU to be reset.
        xids: Driver errors in the kernel's log since the machine started, where that may be read.
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    uncorrected_errors: int = 0
    remap_failed: bool = False
    remap_pending: bool = False
    xids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Gpus:
    """All of a node's.

    Attributes:
        gpus: Each.
        driver_cuda: The newest CUDA that the driver speaks, such as ``(13, 0)``; None: there is no driver.
        torch_cuda: The CUDA that torch was built for; None: a CPU build.
    """

    gpus: tuple[Gpu, ...] = ()
    driver_cuda: tuple[int, int] | None = None
    torch_cuda: tuple[int, int] | None = None


def look_at_gpus() -> Gpus:
    """Ask the management library; torch, whose import takes seconds, is not imported."""
    from ray._private.thirdparty import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver or no library
        return Gpus(torch_cuda=torch_cuda())
    try:
        version = pynvml.nvmlSystemGetCudaDriverVersion()
        xids = kernel_xids()
        gpus = tuple(_gpu(pynvml, index, xids) for index in range(pynvml.nvmlDeviceGetCount()))
        return Gpus(gpus, (version // 1000, version % 1000 // 10), torch_cuda())
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int, xids: dict[str, tuple[int, ...]]) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    errors, failed, pending, bus = 0, False, False, ""
    with suppress(nvml.NVMLError):  # consumer cards have no ECC
        errors = nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        )
    with suppress(nvml.NVMLError, AttributeError):  # nor rows to remap
        _, _, pending, failed = map(bool, nvml.nvmlDeviceGetRemappedRows(handle))
    with suppress(nvml.NVMLError):
        bus = _text(nvml.nvmlDeviceGetPciInfo(handle).busId).lower()[-12:]
    return Gpu(
        index,
        _text(nvml.nvmlDeviceGetName(handle)),
        int(memory.total),
        int(memory.free),
        int(errors),
        failed,
        pending,
        xids.get(bus.rpartition(".")[0], ()),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def torch_cuda() -> tuple[int, int] | None:
    """From the file in which torch notes what it was built for."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b.*=\s*'(\d+)\.(\d+)", version, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


def kernel_xids() -> dict[str, tuple[int, ...]]:
    """PCI address of a GPU to the numbers of its driver errors; empty where the kernel's log may not be read."""
    import os

    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    try:
        while True:
            line = os.read(log, 8192).decode(errors="replace")
            if match := re.search(r"NVRM: Xid \(PCI:([0-9a-f:]+)[^)]*\): (\d+)", line, re.IGNORECASE):
                found[match[1].lower()] = (*found.get(match[1].lower(), ()), int(match[2]))
    except OSError:  # the log's end, or a line that was overwritten
        return found
    finally:
        os.close(log)
