"""The requests that `FakeHub` answers, one method each: what the Hub's API takes and gives."""

import base64
import hashlib
import json
import re
import socket
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 1 << 16
"""Bytes from which a text file is stored as LFS; safetensors and images always are."""


class Refused(Exception):
    def __init__(self, status: int, code: str | None, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class HubApi(BaseHTTPRequestHandler):
    hub: Any  # FakeHub
    protocol_version = "HTTP/1.1"
    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", "tree"),
        ("GET", r"/api/models/([^/]+/[^/]+)/refs", "refs"),
        ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", "branch"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/(\w+)(?:/(\d+))?", "upload"),
        ("POST", r"/lfs/(\w+)/complete", "complete"),
        ("POST", r"/lfs/(\w+)/verify", "verify"),
        ("GET", r"/cdn/(\w+)", "stored"),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_) -> None:
        pass

    def _serve(self) -> None:
        place = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(place.query).items()}
        line = f"{self.command} {self.path}"
        length = int(self.headers.get("Content-Length") or 0)
        with self.hub.lock:
            self.hub.requests.append(line)
            fault = next((f for f in self.hub.faults if f[0] == self.command and f[1] in self.path), None)
            if fault is not None:
                self.hub.faults.remove(fault)
        if fault is not None and fault[2] == "drop":  # in the middle of what is sent
            self.rfile.read(length // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if place.path.startswith(("/lfs/", "/cdn/")) and self.headers.get("Authorization") and "verify" not in line:
            self.hub.leaks.append(line)
        try:
            if fault is not None:
                raise Refused(fault[2], None, self.hub.words)
            method = "GET" if self.command == "HEAD" else self.command
            for kind, pattern, name in self.ROUTES:
                found = re.fullmatch(pattern, place.path)
                if kind == method and found:
                    with self.hub.lock:
                        getattr(self, name)(*(unquote(part) if part else None for part in found.groups()))
                    return
            raise Refused(404, None, f"Sorry, we can't find the page: {line}")
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._json({"error": refused.message}, refused.status, headers)

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # -- answers ----------------------------------------------------------------------------------------------
    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    # -- who may what -----------------------------------------------------------------------------------------
    def _user(self, needed: bool = True) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refused(401, None, "Invalid credentials in Authorization header")
        if not token and needed:
            raise Refused(401, None, "Invalid username or password.")
        return self.hub.users.get(token)

    def _repo(self, repo_id: str) -> Any:
        user, repo = self._user(needed=False), self.hub.repos.get(repo_id)
        if repo is None or (repo.private and repo_id.split("/")[0] != user):
            raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        return repo

    def _may_write(self, owner: str) -> None:
        user = self._user()
        token = self.headers["Authorization"].removeprefix("Bearer ")
        if user != owner or token in self.hub.readers:
            raise Refused(403, None, f'You don\'t have the rights to do this under the namespace "{owner}"')

    def _writable(self, repo_id: str) -> Any:
        repo = self._repo(repo_id)
        if "create_pr" in self.query:
            self._user()
        else:
            self._may_write(repo_id.split("/")[0])
        return repo

    def _commit_of(self, repo: Any, revision: str) -> str:
        commit = repo.resolve(revision)
        if commit is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # -- the API ----------------------------------------------------------------------------------------------
    def whoami(self) -> None:
        self._json({"type": "user", "name": self._user(), "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        wanted = json.loads(self.body)
        owner = wanted.get("organization") or self._user()
        self._may_write(owner)
        repo_id = f"{owner}/{wanted['name']}"
        if repo_id in self.hub.repos:
            url = {"url": f"{self.hub.url}/{repo_id}"}
            return self._json(url | {"error": "You already created this model repo"}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.add(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, private)
        self._json({"url": f"{self.hub.url}/{repo_id}", "name": repo_id})

    def validate(self) -> None:
        front = json.loads(self.body)["content"].startswith("---\n")
        self._json({"errors": [], "warnings": [] if front else [{"message": "empty or missing yaml metadata"}]})

    def info(self, repo_id: str, revision: str | None) -> None:
        repo = self._repo(repo_id)
        commit = self._commit_of(repo, revision or "main")
        files = [
            {"rfilename": name, **({"size": len(data), "blobId": git_oid(data)} if "blobs" in self.query else {})}
            for name, data in repo.commits[commit].items()
        ]
        self._json({"_id": "1", "id": repo_id, "sha": commit, "private": repo.private, "tags": [], "siblings": files})

    def refs(self, repo_id: str) -> None:
        refs = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in self._repo(repo_id).refs.items()]
        self._json({"branches": refs, "converts": [], "tags": []})

    def tree(self, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id)
        entries = []
        for name, data in repo.commits[self._commit_of(repo, revision)].items():
            large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            stored = {"lfs": large} if is_large(name, len(data)) else {}
            entries.append({"type": "file", "path": name, "size": len(data), "oid": git_oid(data), **stored})
        self._json(entries)

    def branch(self, repo_id: str, name: str) -> None:
        repo = self._writable(repo_id)
        if name in repo.refs:
            raise Refused(409, None, f"Reference already exists: {name}")
        repo.refs[name] = repo.refs["main"]
        self._json({}, 201)

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self._writable(repo_id)
        there = repo.commits[self._commit_of(repo, revision)]
        answer = []
        for file in json.loads(self.body)["files"]:
            large = is_large(file["path"], file["size"])
            entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if (old := there.get(file["path"])) is not None:
                entry["oid"] = hashlib.sha256(old).hexdigest() if large else git_oid(old)
            answer.append(entry)
        self._json({"files": answer})

    def batch(self, repo_id: str) -> None:
        self._repo(repo_id), self._user()
        answer = []
        for wanted in json.loads(self.body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            entry = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                upload = {"href": f"{self.hub.storage}/lfs/{oid}"}
                if self.hub.part_bytes and size > self.hub.part_bytes:
                    parts = range(1, -(-size // self.hub.part_bytes) + 1)
                    urls = {f"{n:05d}": f"{self.hub.storage}/lfs/{oid}/{n}" for n in parts}
                    header = {"chunk_size": str(self.hub.part_bytes), **urls}
                    upload = {"href": f"{self.hub.url}/lfs/{oid}/complete", "header": header}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/{oid}/verify"}}
            answer.append(entry)
        self._json({"transfer": "basic", "objects": answer})

    def upload(self, oid: str, part: str | None) -> None:
        if part is None:
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refused(400, None, "checksum does not match")
            self.hub.objects[oid] = self.body
        else:
            self.hub.parts.setdefault(oid, {})[int(part)] = self.body
        self._send(b"", headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def complete(self, oid: str) -> None:
        parts, listed = self.hub.parts.pop(oid), json.loads(self.body)["parts"]
        assert [part["partNumber"] for part in listed] == sorted(parts)
        self.body = b"".join(parts[number] for number in sorted(parts))
        self.upload(oid, None)

    def verify(self, oid: str) -> None:
        if len(self.hub.objects.get(oid, b"")) != json.loads(self.body)["size"]:
            raise Refused(404, None, "object is not there")
        self._json({})

    def commit(self, repo_id: str, revision: str) -> None:
        repo = self._writable(repo_id)
        files = dict(repo.commits[self._commit_of(repo, revision)])
        lines = [json.loads(line) for line in self.body.splitlines()]
        assert lines[0]["key"] == "header", lines[0]
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refused(400, None, f"LFS object of {value['path']} was never uploaded")
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
        ref, answer = revision, {}
        if "create_pr" in self.query:
            number = sum(name.startswith("refs/pr/") for name in repo.refs) + 1
            ref, answer = f"refs/pr/{number}", {"pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/{number}"}
        commit = repo.commit(ref, files, lines[0]["value"]["summary"])
        self._json({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit}", "commitOid": commit, **answer})

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self._repo(repo_id)
        commit = self._commit_of(repo, revision)
        data = repo.commits[commit].get(name)
        if data is None:
            raise Refused(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_oid(data)}"'}
        if not is_large(name, len(data)):
            return self._range(data, headers)
        oid = hashlib.sha256(data).hexdigest()
        self.hub.objects[oid] = data
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        self._send(b"", 302, headers | {"Location": f"{self.hub.storage}/cdn/{oid}"})

    def stored(self, oid: str) -> None:
        self._range(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def _range(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return self._send(data, headers=headers)
        begin, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        place = {"Content-Range": f"bytes {begin}-{end}/{len(data)}"}
        self._send(data[begin : end + 1], 206, headers | place)


def is_large(name: str, size: int) -> bool:
    return size > 0 and (name.endswith((".safetensors", ".png")) or size >= LFS_FROM)


def git_oid(data: bytes) -> str:
    """git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
