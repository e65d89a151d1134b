"""Errors that a user can mend.

Every message says what was wrong, what exists, and what to type. The command
line prints them without a traceback and leaves with the error's exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: a name, a type, a file, a missing package."""

    exit_code = 2


class RunError(UserError):
    """A run that could not go on: NaN, a crashed environment, a full disk."""

    exit_code = 1


class NonFinite(RunError):
    """NaN or infinity in an observation, a reward or a loss; nothing after it was saved."""


class EnvironmentFailed(RunError):
    """An environment crashed, died, hung, or gave what is no number. What was learned until then is sound."""


class NonFiniteEnvironment(EnvironmentFailed, NonFinite):
    """NaN or infinity in what an environment gave; nothing of it was stored."""


class Interrupted(Exception):
    """The user asked to stop while a unit of work was under way; the unit is dropped and done again."""


def suggest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # car-racing for CarRacing-v3, Demo for demo
        squeeze = {_squeezed(k): k for k in known}
        close = [squeeze[s] for s in difflib.get_close_matches(_squeezed(name), squeeze, n=1, cutoff=0.6)]
    return f" Did you mean {close[0]!r}?" if close else ""


def _squeezed(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: ``raise unknown("agent", name, agents)``."""
    known = sorted(known)
    return UserError(f"unknown {kind} {name!r}; available: {', '.join(known) or 'none'}.{suggest(name, known)}")


def missing_package(package: str, extra: str, why: str) -> UserError:
    """The error for an optional package that is not installed."""
    return UserError(f"{why} needs the package {package!r}; type: pip install 'dreamlab[{extra}]'")
