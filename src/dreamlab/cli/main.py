"""``dreamlab VERB ...``: finds the verb's module, runs it, and words whatever goes wrong.

A verb is a module of this folder with a line ``ABOUT = "..."`` at its top level and
``run(argv) -> int | None``; it is imported only when it is typed.

Exit codes: 0 done, 1 a run that could not go on, 2 something the user typed, 70 our own mistake, 130 Ctrl-C,
141 nobody reads the output any more.
"""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from dreamlab.core.errors import Interrupted, UserError, suggest

ORDER = (
    *("demo", "train", "plan", "evaluate", "compare", "report", "sweep", "dream", "studio"),
    *("collect", "import", "publish", "export", "ls", "agents", "envs", "presets"),
)
"""verbs in the order of the help; others follow by name"""
_ABOUT = re.compile(r'^ABOUT(?:: str)? = "(.+)"$', re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    ours = argv is None  # the process is this command's alone
    argv = list(sys.argv[1:] if argv is None else argv)
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # a user's own agents and environments, by dotted path
    if ours:
        warnings.formatwarning = _worded
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except SystemExit as left:  # the help was printed, or a mistyped option told
        return left.code if isinstance(left.code, int) else int(bool(left.code))
    except UserError as error:
        if os.environ.get("DREAMLAB_DEBUG"):
            traceback.print_exc()
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, Interrupted):
        # CPython (3.11) ends `python -m` by SIGINT, whatever we return, if this came up through an exec of text, such
        # as dataclasses have; a later exec of text makes it forget
        exec("")
        return _say("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" ({error.filename})" if error.filename else ""
            return _say(f"the disk is full{place}: nothing saved is lost; free some space and type the same again", 1)
        if error.filename is None:
            return _unexpected(error)
        if os.environ.get("DREAMLAB_DEBUG"):
            traceback.print_exc()
        return _say(f"cannot use {error.filename}: {error.strerror}", 1)
    except Exception as error:
        return _unexpected(error)
    finally:
        if ours:  # all is done: one more Ctrl-C must not change how it ends
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def verbs() -> dict[str, str]:
    """What each verb does, in the order of the help; the modules are read, not imported."""
    folder = Path(__file__).parent
    found = {}
    for module in pkgutil.iter_modules([str(folder)]):
        about = _ABOUT.search((folder / f"{module.name}.py").read_text(encoding="utf-8"))
        if about:
            found[module.name] = about[1]
    order = [verb for verb in ORDER if verb in found] + sorted(found.keys() - set(ORDER))
    return {verb: found[verb] for verb in order}


def usage() -> str:
    """The help of ``dreamlab`` alone."""
    lines = [f"  {verb:10} {about}" for verb, about in verbs().items()]
    return "\n".join(
        [
            "usage: dreamlab VERB ...",
            "",
            "World models in PyTorch: train them, measure them, watch them, and play inside their dreams.",
            "",
            *lines,
            "",
            "dreamlab VERB --help says what a verb takes; dreamlab --version which dreamlab this is.",
        ]
    )


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        from dreamlab import __version__

        print(f"dreamlab {__version__}")
        return 0
    verb, known = argv[0], verbs()
    if verb not in known:
        what = "option" if verb.startswith("-") else "command"
        raise UserError(f"unknown {what} {verb!r}; commands: {', '.join(known)}.{suggest(verb, known)}")
    return importlib.import_module(f"dreamlab.cli.{verb}").run(argv[1:]) or 0


def _say(message: str, code: int) -> int:
    print(f"dreamlab: {message}", file=sys.stderr)
    return code


_PLAIN = warnings.formatwarning


def _worded(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What dreamlab itself warns of, without the line of code that it comes from."""
    own = category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1])
    return f"dreamlab: {message}\n" if own else _PLAIN(message, category, filename, lineno, line)


def _unexpected(error: BaseException) -> int:
    """Our own mistake: one line, and the traceback in a file."""
    if os.environ.get("DREAMLAB_DEBUG"):
        traceback.print_exception(error)
    text = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(": ")
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="dreamlab-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        return _say(f"an error of its own: {what}; type again with DREAMLAB_DEBUG=1 for where", 70)
    return _say(f"an error of its own: {what}; where it happened is in {file.name}", 70)


if __name__ == "__main__":
    sys.exit(main())
