"""Where and how tensors are computed: device, precision, compile, threads and memory, set once."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch

from dreamlab.core.errors import UserError

F = TypeVar("F", bound=Callable)


@dataclass(frozen=True)
class Compute:
    """One switch each: where the networks live, in which precision, compiled or eager."""

    device: torch.device
    bf16: bool = False
    compile: bool = False

    def autocast(self) -> AbstractContextManager:
        """bf16 for matrix products and convolutions inside the block; a plain block in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def compiled(self, fn: F) -> F:
        """The function itself, or its compiled form: the same mathematics."""
        return torch.compile(fn) if self.compile else fn  # type: ignore[return-value]

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{name}, {'bf16' if self.bf16 else 'fp32'}, {'compiled' if self.compile else 'eager'}"


def prepare(device: str = "auto", precision: str = "fp32", compile: bool = False, threads: int = 0) -> Compute:
    """Settle device, precision and threads for this process, and keep freed memory for the next tensor.

    Raises:
        UserError: the device is not there.
    """
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(d for d in ("cuda", "mps", "cpu") if there[d])
    if not there.get(device, False):
        raise UserError(f"no device {device!r} here; available: {', '.join(d for d, ok in there.items() if ok)}")
    return Compute(torch.device(device), precision == "bf16", compile)


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of giving it back: a fresh page costs more than the arithmetic on it.

    Copying into fresh 64 MB tensors runs several times slower than into used ones (page faults); these
    settings take about a quarter off a large update on a CPU. Does nothing outside glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)
    mallopt(m_top_pad, 64 << 20)
