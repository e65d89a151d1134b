"""Numbers as they are told."""

from __future__ import annotations


def figure(value: float) -> str:
    """A score: two places below 10, where one would hide that 0.95 is not 1; none from a thousand on."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def pair(mean: float, spread: float | None) -> str:
    """A mean and what stands behind ±, with as many places."""
    if spread is None:
        return figure(mean)
    places = 0 if abs(mean) >= 1000 else 2 if abs(mean) < 10 else 1
    return f"{figure(mean)} ± {spread:,.{places}f}"


def count(value: float | None) -> str:
    """Steps, frames, episodes: ``24k``, ``1.62M``; – where it is not known."""
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def span(seconds: float | None) -> str:
    """A time: ``48 s``, ``24 min``, ``3.5 h``, ``2.1 d``; – where it is not known."""
    if seconds is None:
        return "–"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
