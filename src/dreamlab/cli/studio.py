"""``dreamlab studio [RUNS]``: a local web page to watch runs, compare them, and play inside their dreams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from dreamlab.cli.flags import ask
from dreamlab.core.errors import UserError

ABOUT = "watch runs, compare them and play inside their dreams, in a browser"
HERE = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Options:
    """Serve a web page over run folders: watch, compare, look inside, and play inside the dream."""

    runs: Positional[Path] = Path("runs")
    """the folder that holds runs, or one run's folder"""
    port: int = 8765
    """the port; 0 takes a free one"""
    host: str = "127.0.0.1"
    """the address that is listened on; another than this machine's own demands the token in the link"""
    open: bool = False
    """open the page in a browser"""
    clients: int = 8
    """who may play at once; the next waits"""
    threads: int = 1
    """threads in which a model steps; more than one helps only where cores are free"""


def run(argv: Sequence[str]) -> int:
    """The command."""
    chosen = ask(Options, argv, "dreamlab studio", __doc__ or "")
    if not chosen.runs.is_dir():
        what = "is no folder" if chosen.runs.exists() else "does not exist"
        raise UserError(f"{chosen.runs} {what}; name a folder that holds runs: dreamlab studio RUNS")
    return serve(chosen)


def serve(chosen: Options) -> int:
    """Serve until Ctrl-C."""
    import os
    import secrets
    import socket
    import webbrowser

    import uvicorn

    from dreamlab import agents
    from dreamlab.cli import session
    from dreamlab.studio.app import application
    from dreamlab.studio.studio import Studio

    token = None if chosen.host in HERE else secrets.token_urlsafe(24)
    listening = socket.socket(socket.AF_INET6 if ":" in chosen.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((chosen.host, chosen.port))
    except OSError as error:
        raise UserError(
            f"cannot listen on {chosen.host}:{chosen.port} ({error.strerror}); name another with --port"
        ) from error
    port = listening.getsockname()[1]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dreamlab" / "studio"
    threads = max(1, chosen.threads)
    studio = Studio(chosen.runs, session.open_run, cache, token, chosen.clients, threads, agents.dreams)  # type: ignore[arg-type]
    name = chosen.host if chosen.host not in ("0.0.0.0", "::") else socket.gethostname()
    link = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
    print(f"studio: {link}   (Ctrl-C ends it)", flush=True)
    if chosen.open:
        webbrowser.open(link)
    config = uvicorn.Config(application(studio), log_level="warning", ws="websockets-sansio", ws_max_size=1 << 16)
    uvicorn.Server(config).run(sockets=[listening])
    return 0
