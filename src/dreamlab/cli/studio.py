"""``dreamlab studio [RUNS]``: a local web page to watch runs, compare them, and play inside their dreams."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from dreamlab.cli.flags import ask
from dreamlab.core.errors import UserError

if TYPE_CHECKING:
    from socket import socket

ABOUT = "watch runs, compare them and play inside their dreams, in a browser"
HERE = ("127.0.0.1", "localhost", "::1")
"""addresses that only this machine reaches"""
EVERYWHERE = ("0.0.0.0", "::")
STOPPED = 130


@dataclass(frozen=True)
class Options:
    """Serve a web page over run folders: watch, compare, look inside, and play inside the dream."""

    runs: Positional[str] = "runs"
    """the folder that holds runs, one run's folder, or a published model: its folder, or user/name on the Hub"""
    port: int = 8765
    """the port; 0 takes a free one"""
    host: str = "127.0.0.1"
    """the address that is listened on; another than this machine's own demands the token in the link"""
    token: bool = False
    """demand the token on this machine too, where others have accounts"""
    open: bool = False
    """open the page in a browser"""
    clients: int = 8
    """who may play at once; the next waits"""
    threads: int = 1
    """threads in which a model steps; more than one helps only where cores are free"""


def run(argv: Sequence[str]) -> int:
    """The command. Ctrl-C ends it, as it ends every other: with 130."""
    chosen = ask(Options, argv, "dreamlab studio", __doc__ or "")
    if not 0 <= chosen.port < 1 << 16:
        raise UserError(f"--port must be between 0 and 65535, got {chosen.port}")
    if chosen.clients < 1 or chosen.threads < 1:
        raise UserError("--clients and --threads must be at least 1")
    root = find(chosen.runs)
    listening = listen(chosen.host, chosen.port)
    with listening:
        return serve(chosen, root, listening)


def find(runs: str) -> Path:
    """The folder that is served.

    Raises:
        UserError: there is none, and no such model.
        RunError: the Hub cannot be reached.
    """
    from dreamlab.cli import named

    folder = Path(runs)
    if named.hub_name(runs) is not None:
        return named.place(runs).folder
    if folder.is_dir():  # a run is called by its folder, which . and .. do not name
        return folder.resolve() if folder.name in ("", "..") else folder
    if folder.exists():
        raise UserError(f"{folder} is no folder; name a folder that holds runs: dreamlab studio RUNS")
    hint = "dreamlab demo makes a first run in minutes" if runs == Options.runs else "or leave it out for runs"
    raise UserError(f"there is no folder {folder}; name one that holds runs: dreamlab studio RUNS; {hint}")


def listen(host: str, port: int) -> socket:
    """A socket that listens.

    Raises:
        UserError: the port is taken, or there is no such address here.
    """
    import errno
    import socket

    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((host, port))
        listening.listen(256)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is taken, perhaps by another studio; take another with --port, or any free one: --port 0"
            ) from error
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is not for everybody; take one above 1023 with --port") from error
        raise UserError(
            f"cannot listen on {host!r} ({error.strerror}); --host names an address of this machine"
        ) from error
    return listening


def serve(chosen: Options, root: Path, listening: socket) -> int:
    """Serve until Ctrl-C."""
    import secrets

    from dreamlab import agents
    from dreamlab.cli import session
    from dreamlab.studio import server
    from dreamlab.studio.app import application
    from dreamlab.studio.studio import Studio

    token = secrets.token_urlsafe(24) if chosen.token or chosen.host not in HERE else None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamlab" / "studio"
    opener: Any = session.open_run
    studio = Studio(root, opener, cache, token, chosen.clients, chosen.threads, agents.dreams)
    app = application(studio)
    greet(chosen, root, listening.getsockname()[1], token)
    try:
        server.serve(app, listening)
    except KeyboardInterrupt:
        if server.ended():
            raise
        print("dreamlab: stopped", file=sys.stderr, flush=True)
        os._exit(STOPPED)  # a thread is in the middle of a long piece of work that nobody waits for
    return 0


def greet(chosen: Options, root: Path, port: int, token: str | None) -> None:
    """Say where the page is, and open it if asked."""
    from urllib.parse import quote

    from dreamlab.evals import catalogue

    found = catalogue.find(root)[0]
    what = f"{len(found)} run{'s' * (len(found) != 1)}" if found else "no runs yet; they show as they appear"
    rest = (f"?token={token}" if token else "") + (f"#/run/{quote(root.name, safe='')}" if found == [root] else "")
    link = f"http://{address(chosen.host)}:{port}/{rest}"
    print(f"studio: {link}   (Ctrl-C ends it)\n        {root}: {what}", flush=True)
    if chosen.host in HERE and "SSH_CONNECTION" in os.environ:
        near = f"http://localhost:{port}/{rest}"
        print(
            f"        from your own machine: ssh -L {port}:localhost:{port} and this one's name; then {near}",
            flush=True,
        )
    if chosen.open:
        show(link)


def address(host: str) -> str:
    """An address as it is written in a link; this machine's name where all of its addresses are meant."""
    import socket

    if host in EVERYWHERE:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def show(link: str) -> None:
    """Open a link in a browser with a window of its own; without a display, say so."""
    import threading
    import webbrowser

    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in displays):
        print("        there is no display here: open the link yourself", flush=True)
        return
    threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()
