"""Measuring cases in turn, and saying what share of this machine's multiplying they reach.

Every case is run several times, A B C A B C, so that whatever else the machine does falls on all alike; shares
and ratios are medians over those rounds, never the quotient of two lucky times.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import dreamlab
from dreamlab.nn.compute import Compute, emulates_bf16


class Done(NamedTuple):
    """What one call of a case did."""

    units: float = 1
    rows: float = 1


class Floor(NamedTuple):
    """What a case is to reach: a share of another case's GFLOP/s, or a multiple of its units per second."""

    against: str
    precision: str
    least: float


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    precision: str
    """fp32, bf16, or nothing where no network runs"""
    about: str
    unit: str
    """what ``run`` does some of: updates, steps"""
    rows: str
    """what a unit holds several of: frames, transitions"""
    run: Callable[[], Done]
    gflop: float | None = None
    """arithmetic of one unit: multiplications and additions of dense layers and convolutions"""
    floor: Floor | None = None


class Sample(NamedTuple):
    """A case's turn."""

    seconds: float
    """of one unit"""
    rows: float
    """a second"""


Samples = dict[tuple[str, str], list[Sample]]
"""by name and precision: one a round"""


def gemm_case(name: str, shapes: Sequence[tuple[int, int, int]], compute: Compute, precision: str) -> Case:
    """Plain matrix products (n, k) x (k, m), into memory that is there already."""
    dtype = torch.bfloat16 if compute.bf16 else torch.float32
    new = partial(torch.randn, device=compute.device, dtype=dtype)
    products = [(new(n, k), new(k, m), new(n, m)) for n, k, m in shapes]

    def run() -> Done:
        for left, right, out in products:
            torch.mm(left, right, out=out)
        return Done()

    gflop = 2e-9 * sum(n * k * m for n, k, m in shapes)
    about = "product " + ", ".join("x".join(map(str, shape)) for shape in shapes)
    return Case(name, precision, about, "calls", "calls", run, gflop)


def take_turns(
    cases: Sequence[Case], repeats: int, seconds: float, device: torch.device, say: Callable[[str], None]
) -> Samples:
    """Warm every case up, then run all of them in turn ``repeats`` times, each for ``seconds`` a turn."""
    counts = []
    for case in cases:
        case.run()
        _wait(device)
        began = time.perf_counter()
        case.run()
        _wait(device)
        counts.append(max(1, round(seconds / (time.perf_counter() - began))))
    samples: Samples = {(case.name, case.precision): [] for case in cases}
    for i in range(repeats):
        say(f"round {i + 1} of {repeats}")
        for case, count in zip(cases, counts, strict=True):
            samples[case.name, case.precision].append(_sample(case, count, device))
    return samples


def _sample(case: Case, count: int, device: torch.device) -> Sample:
    began = time.perf_counter()
    done = [case.run() for _ in range(count)]
    _wait(device)
    taken = time.perf_counter() - began
    return Sample(taken / sum(d.units for d in done), sum(d.rows for d in done) / taken)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def results(cases: Sequence[Case], samples: Samples) -> list[dict[str, Any]]:
    """A record a case: plain numbers, None where something does not apply or was not measured."""
    gflops = {(c.name, c.precision): c.gflop for c in cases}
    return [_record(case, samples, gflops) for case in cases]


def _record(case: Case, samples: Samples, gflops: dict[tuple[str, str], float | None]) -> dict[str, Any]:
    own = samples[case.name, case.precision]
    seconds = [s.seconds for s in own]
    middle = statistics.median(seconds)

    def against(name: str, precision: str, arithmetic: bool) -> float | None:
        """How many times as fast as another case, in GFLOP/s or in units."""
        other, work = samples.get((name, precision)), gflops.get((name, precision))
        if not other or (arithmetic and not (case.gflop and work)):
            return None
        scale = (case.gflop or 1) / (work or 1) if arithmetic else 1.0
        return scale * statistics.median(o.seconds / s for o, s in zip(other, seconds, strict=True))

    floor = None
    if case.floor is not None:
        reached = against(case.floor.against, case.floor.precision, case.floor.against == "gemm")
        kept = None if reached is None else reached >= case.floor.least
        floor = {"against": case.floor.against, "at_least": case.floor.least, "reached": reached, "kept": kept}
    return {
        "name": case.name,
        "precision": case.precision or None,
        "about": case.about,
        "unit": case.unit,
        "ms": {"median": middle * 1e3, "min": min(seconds) * 1e3, "max": max(seconds) * 1e3},
        "per_second": 1 / middle,
        "rows": case.rows,
        "rows_per_second": statistics.median(s.rows for s in own),
        "gflop": case.gflop,
        "gflops": case.gflop / middle if case.gflop else None,
        "of_gemm": against("gemm", case.precision, True),
        "floor": floor,
    }


def precisions(chosen: str, device: str, say: Callable[[str], Any]) -> tuple[str, ...]:
    """What ``--precision`` means: ``both`` are those that the processor multiplies in."""
    if chosen != "both":
        return (chosen,)
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()) or not emulates_bf16(torch.device("cpu")):
        return "fp32", "bf16"
    say("fp32 alone: this processor does not multiply in bf16 (--precision bf16 measures it all the same)")
    return ("fp32",)


def machine(compute: Compute) -> dict[str, Any]:
    """Where this was measured."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().split("model name") if info.exists() else []
    processor = names[1].splitlines()[0].strip(" \t:") if len(names) > 1 else platform.processor()
    cuda = compute.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(compute.device) if cuda else compute.device.type,
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "compile": compute.compile,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "dreamlab": dreamlab.__version__,
    }


HEAD = ("case", "", "ms (least-most)", "a second", "GFLOP", "GFLOP/s", "of GEMM", "floor", "reached")


def table(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines to read."""
    rows = [HEAD, *map(_row, records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    ms, floor, rows = record["ms"], record["floor"], record["rows_per_second"]
    rate = f"{_short(record['per_second'])} {record['unit']}"
    if record["rows"] != record["unit"]:
        rate += f", {_short(rows)} {record['rows']}"
    return (
        record["about"],
        record["precision"] or "",
        f"{_short(ms['median'])} ({_short(ms['min'])}-{_short(ms['max'])})",
        rate,
        _short(record["gflop"]),
        _short(record["gflops"]),
        "" if record["of_gemm"] is None else f"{record['of_gemm']:.0%}",
        *_verdict(floor),
    )


def _verdict(floor: dict[str, Any] | None) -> tuple[str, str]:
    """What is asked, and what came of it."""
    if floor is None:
        return "", ""
    form = "{:.0%}" if floor["against"] == "gemm" else "{:.2f} x peer"
    asked = form.format(floor["at_least"])
    if floor["reached"] is None:
        return asked, "not measured"
    return asked, form.format(floor["reached"]) + (", kept" if floor["kept"] else ", MISSED")


def _short(value: float | None) -> str:
    """About three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def profiles(cases: Sequence[Case], device: torch.device, most: int = 12) -> Iterator[str]:
    """The operations that take most of one call of each case, without those inside them."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    order = f"self_{'cuda' if device.type == 'cuda' else 'cpu'}_time_total"
    for case in cases:
        if not case.gflop:
            continue  # an environment's work is in other processes
        case.run()
        with torch.profiler.profile(activities=activities) as profile:
            case.run()
            _wait(device)
        yield f"\n{case.about}, {case.precision}"
        yield profile.key_averages().table(sort_by=order, row_limit=most, max_name_column_width=48)
