"""The pages of runs: which there are, one run live, curves, and runs side by side."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import FileResponse

from dreamlab.core.errors import RunError, UserError
from dreamlab.evals import catalogue, comparison, html
from dreamlab.evals.run_folder import MOST, RunFolder, is_number
from dreamlab.studio.catalogue import Unknown
from dreamlab.studio.cells import Axis, Curve
from dreamlab.studio.curves import Reader
from dreamlab.studio.studio import Studio

SHOWN = {".mp4": "video/mp4", ".png": "image/png"}
"""files of a run that are handed out, in these folders"""
FOLDERS = ("videos", "dreams", "pictures")
LONGEST = 64 << 20
"""bytes of metrics.jsonl up to which a run is compared here: all of its lines are read"""
COMPARED = 24
"""comparisons that are kept in the cache"""


def place(studio: Studio, name: str) -> Path:
    """The folder of a run by its name, which is its path below the root.

    Raises:
        Unknown: no run of that name.
    """
    return studio.catalogue.place(name)


def router(studio: Studio) -> APIRouter:
    """Runs, one run, its curves and media, and comparisons."""
    routes = APIRouter()
    comparing = threading.Lock()  # a drawing library's settings are one for the process

    @routes.get("/runs")
    def runs(request: Request) -> Response:
        text = _json({"root": str(studio.root), "runs": studio.catalogue.rows()})
        tag = f'"{hashlib.sha256(text).hexdigest()[:20]}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="application/json", headers=headers)

    @routes.get("/run/{name:path}")
    def run(name: str) -> Response:
        row, folder = studio.catalogue.row(name), studio.catalogue.place(name)
        return _reply({**row, **details(folder), "seconds": _seconds(studio, folder)})

    @routes.get("/curves/{name:path}")
    def curves(
        name: str,
        key: Annotated[list[str] | None, Query()] = None,
        x: Literal["env_steps", "wall", "step"] = "env_steps",
        points: Annotated[int, Query(ge=2, le=4000)] = 1000,
        since: str = "",
    ) -> Response:
        folder = studio.catalogue.place(name)
        try:
            return _reply(studio.curves.read(folder, lambda reader: told(reader, key or (), x, points, since)))
        except FileNotFoundError:
            return _reply({"keys": [], "curves": {}, "version": "", "lines": 0, "sampled": False})
        except OSError as error:
            raise RunError(f"{name}/metrics.jsonl cannot be read: {error.strerror}") from error

    @routes.get("/media/{path:path}")
    def media(path: str) -> FileResponse:
        file = shown_file(studio, path)
        return FileResponse(file, media_type=SHOWN[file.suffix], headers={"Cache-Control": "no-cache"})

    @routes.post("/compare")
    def compare(runs: Annotated[list[str], Body(embed=True, max_length=64)]) -> Response:
        if not runs:
            raise UserError("choose at least one run to compare")
        folders = [studio.catalogue.place(name) for name in dict.fromkeys(runs)]
        key = _fingerprint(folders)
        out = studio.cache / "compared" / key
        with comparing:
            if not (out / "report.html").exists():
                compare_into(folders, out)
            os.utime(out)
            _forget(out.parent)
            said = json.loads((out / "said.json").read_text(encoding="utf-8"))
        return _reply({"page": f"/api/compared/{key}", "said": said})

    @routes.get("/compared/{key}")
    def compared(key: str) -> FileResponse:
        page = studio.cache / "compared" / key / "report.html"
        if not (key.isalnum() and page.is_file()):
            raise Unknown("this comparison is not kept any more; make it again")
        return FileResponse(page, media_type="text/html")  # what it may do stands in guard.MADE_PAGE

    return routes


# -- one run -----------------------------------------------------------------------------------------------------


def details(folder: Path) -> dict[str, Any]:
    """What the page of one run shows besides its summary; what is broken is left out and named in ``broken``."""
    files = RunFolder(folder)
    found: dict[str, Any] = {
        "settings": {}, "checkpoints": [], "evaluations": [], "films": [], "pictures": [], "latest": {}, "phases": []
    }  # fmt: skip
    for name, make in (
        ("settings", lambda: _settings(files)),
        ("checkpoints", lambda: sorted(int(p.name) for p in folder.glob("checkpoints/[0-9]*") if p.name.isdigit())),
        ("evaluations", lambda: [_evaluation(stem, data, folder) for stem, data in files.evaluations.items()]),
        ("films", lambda: _films(files)),
        ("pictures", lambda: [_file(files, p, "picture") for p in sorted(folder.glob("pictures/*.png"))]),
        ("latest", lambda: _latest(files)),
        ("phases", lambda: catalogue.phases(files)),
    ):
        try:
            found[name] = make()
        except Exception as error:  # anything may lie there, and the rest must be shown
            files.problems.append(f"{name}: {type(error).__name__}: {error}")
    return {**found, "broken": files.problems}


def _settings(files: RunFolder) -> dict[str, dict[str, str]]:
    """All of ``config.yaml`` by group, flat."""
    config = files.config
    top = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    groups = {key: value for key, value in config.items() if isinstance(value, Mapping) and value}
    return {str(name): html.flat(group) for name, group in {"run folder": top, **groups}.items() if group}


def _evaluation(stem: str, data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    returns = [r for r in data.get("returns") or () if is_number(r)]
    lengths = [n for n in data.get("lengths") or () if is_number(n)]
    protocol = data.get("protocol") if isinstance(data.get("protocol"), Mapping) else {}
    return {
        "name": stem,
        "mean": data.get("mean"),
        "std": data.get("std"),
        "error": html.error(returns),
        "episodes": len(returns),
        "best": max(returns, default=None),
        "length": sum(lengths) / len(lengths) if lengths else None,
        "env": data.get("env"),
        "checkpoint": protocol.get("checkpoint"),  # type: ignore[union-attr]
        "policy": protocol.get("policy"),  # type: ignore[union-attr]
        "seed": protocol.get("seed"),  # type: ignore[union-attr]
        "protocol": html.flat(protocol),  # type: ignore[arg-type]
        "written": (folder / "evaluations" / f"{stem}.json").stat().st_mtime,
    }


def _films(files: RunFolder) -> list[dict[str, Any]]:
    kinds = (("film", files.films()[:MOST]), ("dream", files.dreams()[:MOST]))
    found = [_file(files, path, kind) for kind, paths in kinds for path in paths]
    return sorted(found, key=lambda film: -film["written"])


def _file(files: RunFolder, path: Path, kind: str) -> dict[str, Any]:
    return {"path": files.name(path), "kind": kind, "name": path.stem, "written": path.stat().st_mtime}


def _latest(files: RunFolder) -> dict[str, float]:
    """The last value of each key in the last lines."""
    found: dict[str, float] = {}
    for line in files.last_metrics:
        found |= {key: value for key, value in line.items() if key not in found and is_number(value)}
    return found


def _seconds(studio: Studio, folder: Path) -> float | None:
    try:
        return studio.curves.read(folder, lambda reader: reader.seconds) or None
    except OSError:
        return None


def shown_file(studio: Studio, path: str) -> Path:
    """A film or picture by ``RUN/folder/name``; run and file are found in what there is, never joined unseen.

    Raises:
        Unknown: no such run, or nothing in it that may be shown by that name.
    """
    head, folder, name = [*path.rsplit("/", 2), "", ""][:3]
    root = studio.catalogue.place(head)
    if folder in FOLDERS:
        for file in (root / folder).glob("*"):
            real = os.path.realpath(file)
            if file.name == name and file.suffix in SHOWN and real.startswith(os.path.realpath(root) + os.sep):
                return file
    raise Unknown(f"the run {head!r} has no film or picture {folder}/{name}")


# -- curves ------------------------------------------------------------------------------------------------------


def told(reader: Reader, keys: Sequence[str], axis: Axis, points: int, since: str = "") -> dict[str, Any]:
    """The answer to who asks for curves; without curves where nothing came since."""
    found = {} if since == reader.version else {key: reader.cells.curve(key, axis, points) for key in keys}
    return {
        "keys": list(reader.cells.keys),
        "curves": {key: _points(curve) for key, curve in found.items() if curve is not None},
        "version": reader.version,
        "same": since == reader.version,
        "lines": reader.cells.lines,
        "sampled": reader.sampled,
    }


def _points(curve: Curve) -> dict[str, list[float]]:
    """x and y; low and high where they are not all the same as y."""
    told = {"x": curve.x.tolist(), "y": curve.y.tolist()}
    if (curve.high > curve.low).any():
        told |= {"low": curve.low.tolist(), "high": curve.high.tolist()}
    return told


# -- side by side ------------------------------------------------------------------------------------------------


def compare_into(folders: Sequence[Path], out: Path) -> None:
    """Make the page of a comparison in a folder of the cache, wholly or not at all.

    Raises:
        RunError: no run has a score; says why of each.
    """
    from dreamlab.evals import comparison_page

    long = [f for f in folders if (f / "metrics.jsonl").exists() and (f / "metrics.jsonl").stat().st_size > LONGEST]
    words = [f"{f}: its metrics are too long to be drawn here; type: dreamlab compare {f} --out FOLDER" for f in long]
    short = [folder for folder in folders if folder not in long]
    if not short:
        raise RunError("no run can be compared:\n" + "\n".join(f"  {line}" for line in words))
    found = comparison.compare(short)
    found.said += words
    made = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    comparison_page.write(found, made)
    (made / "said.json").write_bytes(_json(found.said))
    shutil.rmtree(out, ignore_errors=True)
    os.replace(made, out)


def _fingerprint(folders: Sequence[Path]) -> str:
    """Of runs and of all that a comparison reads of them."""
    seen: list[Any] = []
    for folder in folders:
        files = [folder / "config.yaml", folder / "metrics.jsonl"]
        files += [path for kind in ("evaluations", *FOLDERS) for path in sorted(folder.glob(f"{kind}/*"))]
        stamps = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.exists()]
        seen.append((str(folder.resolve()), stamps))
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:24]


def _forget(home: Path) -> None:
    """Keep the comparisons that were asked for last."""
    for old in sorted(home.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)[COMPARED:]:
        shutil.rmtree(old, ignore_errors=True)


# -- JSON --------------------------------------------------------------------------------------------------------


def _reply(data: Any) -> Response:
    return Response(_json(data), media_type="application/json", headers={"Cache-Control": "no-cache"})


def _json(data: Any) -> bytes:
    """JSON as browsers read it: what is no finite number is null, whatever a file held."""
    try:
        return json.dumps(data, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(data), allow_nan=False).encode()


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
