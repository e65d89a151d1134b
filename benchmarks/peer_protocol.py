"""How dreamer.py and iris.py talk to a peer in an environment of its own: lines of JSON out, one request a line in.

The first line out says what was built. ``NAME COUNT`` in does that case so often and is answered by a line with the
seconds that it took. The end of the input ends the process. Only the standard library and torch are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from typing import Any

import torch


def options(
    about: str | None, sizes: Collection[str], checkout: str | None = None, agents: Collection[str] = ()
) -> argparse.Namespace:
    """What both sides are asked for.

    Args:
        sizes: of DreamerV3.
        checkout: a repository ``OWNER/NAME`` whose folder is given as ``--NAME``.
        agents: where there are others than DreamerV3.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if agents:
        parser.add_argument("--agent", default="dreamer-v3", choices=list(agents))
    parser.add_argument("--size", default="12m", choices=list(sizes), help="of DreamerV3")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="sequences")
    parser.add_argument("--length", type=int, default=32, metavar="N", help="steps of a sequence")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 takes all cores")
    if checkout:
        name = checkout.split("/")[1]
        parser.add_argument(f"--{name}", required=True, metavar="FOLDER", help=f"a checkout of {checkout}")
    return parser.parse_args()


def commit(folder: str) -> str:
    """Which version of a checkout this is; nothing where git does not know it."""
    asked = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def serve(
    peer: str,
    version: str,
    chosen: argparse.Namespace,
    build: Callable[[argparse.Namespace], Any],
    names: Collection[str] = ("update", "policy"),
) -> None:
    """Say what was built, then do what each line of input asks for until there is no more.

    ``build`` gives an object with ``parameters`` and the cases ``names``: count -> rows that these held.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    torch.set_num_threads(chosen.threads or os.cpu_count() or 1)
    cases = build(chosen)
    about = {
        **vars(chosen),
        "peer": peer,
        "version": version,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "tuned": "MALLOC_TOP_PAD_" in os.environ,
        "parameters": cases.parameters,
    }
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        name, count = line.split()
        if name not in names:
            sys.exit(f"no case {name!r}: there are {', '.join(names)}")
        began = time.perf_counter()
        rows = getattr(cases, name)(int(count))
        answer = {"case": name, "units": int(count), "rows": rows, "seconds": time.perf_counter() - began}
        print(json.dumps(answer), file=answers, flush=True)
