"""A stand-in for the Hugging Face Hub: the endpoints that creating, uploading to and downloading a model ask for.

Large files go by LFS, as the Hub has it for .safetensors and .mp4; the rest lies in the commit itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Repositories by name, each {path: bytes}; every commit is kept as a revision."""

    daemon_threads = True

    def __init__(self, token: str = "hf_stand_in") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = token
        self.repos: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, dict[str, dict[str, bytes]]] = {}
        self.objects: dict[str, bytes] = {}
        self.fetched: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """Make a commit; returns its id."""
        sha = hashlib.sha1(json.dumps({k: hashlib.sha1(v).hexdigest() for k, v in files.items()}).encode()).hexdigest()
        self.repos[repo] = files
        self.revisions.setdefault(repo, {})[sha] = dict(files)
        return sha


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, code: int, data: Any = None, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        body = body if data is None else json.dumps(data).encode()
        self.send_response(code)
        sent = {"Content-Type": "application/json" if data is not None else "application/octet-stream"}
        for key, value in {**sent, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.server.token}":
            return True
        self._answer(401, {"error": "unauthorized"})
        return False

    def do_POST(self) -> None:
        body, path = self._body(), self.path
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif not self._allowed():
            return
        elif path == "/api/repos/create":
            said = json.loads(body)
            repo = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
            if repo not in self.server.repos:
                self.server.put(repo, {})
            self._answer(200, {"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".mp4")) else "regular",
                 "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            self._answer(200, {"files": files})
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {"oid": o["oid"], "size": o["size"], "authenticated": True,
                 "actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}", "header": {}}}}
                for o in json.loads(body)["objects"]
            ]  # fmt: skip
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            files = dict(self.server.repos[match[1]])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    files.pop(value["path"], None)
            sha = self.server.put(match[1], files)
            self._answer(200, {"commitUrl": f"{self.server.url}/{match[1]}/commit/{sha}", "commitOid": sha})
        else:
            self._answer(404, {"error": path})

    def do_PUT(self) -> None:
        body = self._body()
        oid = self.path.rsplit("/", 1)[-1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self._answer(200, {})

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            sha, files = self._revision(match[1], match[2] or "main")
            if files is not None:
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                self._answer(
                    200, {"id": match[1], "modelId": match[1], "sha": sha, "siblings": siblings, "private": False}
                )
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            _, files = self._revision(match[1], match[2])
            if files is not None:
                oid = {n: hashlib.sha1(d).hexdigest() for n, d in files.items()}
                tree = [{"type": "file", "path": n, "size": len(d), "oid": oid[n]} for n, d in files.items()]
                self._answer(200, tree)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            sha, files = self._revision(match[1], match[2])
            if files is None:
                return
            if match[3] not in files:
                self._answer(404, {"error": "entry"}, headers={"X-Error-Code": "EntryNotFound"})
                return
            data = files[match[3]]
            if self.command == "GET":
                self.server.fetched.append(match[3])
            etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": sha}
            self._answer(200, body=data, headers=etag)
        else:
            self._answer(404, {"error": path})

    do_HEAD = do_GET  # noqa: N815

    def _revision(self, repo: str, revision: str) -> tuple[str, dict[str, bytes] | None]:
        revisions = self.server.revisions.get(repo)
        if revisions is None:
            self._answer(404, {"error": "repo"}, headers={"X-Error-Code": "RepoNotFound"})
            return "", None
        sha = list(revisions)[-1] if revision == "main" else revision
        if sha not in revisions:
            self._answer(404, {"error": "revision"}, headers={"X-Error-Code": "RevisionNotFound"})
            return "", None
        return sha, revisions[sha]
