"""Where and how tensors are computed: device, precision, compile, threads and memory, set once."""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dreamlab.core.errors import UserError

MANY_FORMS: dict[str, Any] = (
    {"recompile_limit": 64} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}
)
"""a function is compiled anew for other sizes, precisions and modes, and all agents of a process count together"""

F = TypeVar("F", bound=Callable)

COMPILER = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
"""what torch.compile calls on a CPU, where CXX names no other"""


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
        """The function itself, or its compiled form: the same mathematics.

        Where there is no compiler it warns, and gives the function itself.
        """
        if not self.compile:
            return fn
        if self.device.type == "cpu" and not has_compiler(os.environ.get("CXX", COMPILER), os.environ.get("PATH", "")):
            return fn
        return torch.compile(fn, **MANY_FORMS)  # type: ignore[return-value]

    def whole(self, fn: F) -> F:
        """A whole update as one CUDA graph, where compile is on and there is a GPU; the function itself elsewhere."""
        return Captured(fn) if self.compile and self.device.type == "cuda" else fn  # type: ignore[return-value]

    @property
    def precision(self) -> str:
        """As settings and protocols say it."""
        return "bf16" if self.bf16 else "fp32"

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return f"{name}, {self.precision}, {'compiled' if self.compile else 'eager'}"


class Captured:
    """A function of tensors as one CUDA graph: its thousands of small kernels are launched as one.

    It must not wait for the device, and must do the same for every input of the same shapes. The first calls run as
    they are, which lets libraries settle; inputs of other shapes always do. Results are copies: the graph's own are
    written over by the next call.
    """

    WARM = 3

    def __init__(self, fn: Callable) -> None:
        self.fn, self.calls = fn, 0
        self.graph: Any = None
        self.inputs: list[Tensor] = []
        self.outputs: Any = None

    def __call__(self, *args: Any) -> Any:
        flat, form = pytree.tree_flatten(args)
        if self.calls < self.WARM:
            self.calls += 1
            return self._aside(args)
        if self.graph is None:
            self._capture(flat, form)
        if [x.shape for x in flat] != [x.shape for x in self.inputs]:
            return self.fn(*args)
        for there, new in zip(self.inputs, flat, strict=True):
            there.copy_(new, non_blocking=True)
        self.graph.replay()
        return pytree.tree_map(lambda x: x.clone(), self.outputs)

    def _aside(self, args: Any) -> Any:
        """On a stream of its own, as gradients that are to be captured ask for."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            found = self.fn(*args)
        torch.cuda.current_stream().wait_stream(side)
        return found

    def _capture(self, flat: list[Tensor], form: Any) -> None:
        self.inputs = [x.clone() for x in flat]
        self.graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph):
            self.outputs = self.fn(*pytree.tree_unflatten(self.inputs, form))


def prepare(
    device: str = "auto", precision: str = "fp32", compile: bool = False, threads: int = 0, learns: bool = True
) -> Compute:
    """Settle device, precision and threads for this process, and keep freed memory for the next tensor.

    Args:
        learns: without, where nothing is learned, nothing is compiled, and what a processor cannot multiply in bf16 is
            computed in fp32. Learning is warned of that, and does as it is told.

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
    bf16 = precision == "bf16"
    if bf16 and emulates_bf16(torch.device(device)):
        bf16 = learns
        if learns:
            warnings.warn(
                "this processor does not multiply in bf16, and without its help that takes up to hundreds of times as "
                "long as fp32; type --precision fp32, or train on a GPU",
                stacklevel=2,
            )
    return Compute(torch.device(device), bf16, compile and learns)


@functools.cache
def has_compiler(cxx: str, path: str) -> bool:
    """Whether torch.compile finds what it needs on a CPU; says what is missing, once.

    Args:
        cxx: a compiler alone, without words before or behind it; an empty name is none, as torch.compile takes it.
        path: where to look for it.
    """
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not shutil.which(cxx, path=path):
        lacks = f"a C++ compiler, and {cxx or 'what CXX names (nothing)'} is not on the path"
        mend = f"install one (apt install {COMPILER})" + ("" if cxx else ", unset CXX")
    elif not header.exists():
        lacks, mend = f"Python's headers, and there is no {header}", "install them (apt install python3-dev)"
    else:
        return True
    warnings.warn(
        f"--compile on a CPU wants {lacks}: it goes on without, the same but slower; {mend}, or type --no-compile",
        stacklevel=3,
    )
    return False


def looking(x: Tensor) -> bool:
    """On a CPU, with no gradients asked for, and not while it is exported or traced: what is exported is plain."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in (Tensor, torch.nn.Parameter)
    return x.is_cpu and not torch.is_grad_enabled() and not recorded


def emulates_bf16(device: torch.device) -> bool:
    """Whether products in bf16 would be made there without the processor's help (before AVX-512 on x86)."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def in_fp32_if_emulated(device: torch.device) -> AbstractContextManager:
    """fp32 inside the block, whatever is asked for around it, where bf16 would be emulated."""
    return torch.autocast(device.type, enabled=False) if emulates_bf16(device) else nullcontext()


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Numbers below 1e-38 count as 0 inside the block, in this thread on a CPU that can.

    It takes many times as long over them, and gradients through saturated units may be full of them. Not
    for what lives by such numbers: LaProp's second moments are squares down to 1e-40.
    """
    before = bool(torch.full((), 1e-30) * 1e-10 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


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
    if not (mallopt(m_mmap_threshold, 1 << 30) or mallopt(m_mmap_threshold, 32 << 20)):  # 32 MB: before glibc 2.35
        return  # without it the next one would have all above 128 kB given back
    mallopt(m_trim_threshold, -1)  # none: an update of more than a threshold would be given back each time
    mallopt(m_top_pad, 64 << 20)
