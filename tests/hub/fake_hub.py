"""The Hugging Face Hub's HTTP API on the loopback, as far as pushing and pulling a model repository needs it.

Written after what huggingface_hub 2.4 sends and expects (hf_api.py, _commit_api.py, lfs.py, file_download.py). There is
no xet storage, so large files go by git-LFS: "basic", and "multipart" where ``part_bytes`` is set. Like the real Hub it
sends readers of large files to another host, which must not see the token.

    with FakeHub() as hub:
        hub.users["hf_secret"] = "alice"
        ...  # HF_ENDPOINT=hub.url HF_TOKEN=hf_secret
        assert hub.repos["alice/model"].files("main") == {"README.md": b"..."}
"""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer

from hub.fake_hub_api import HubApi


@dataclass
class Repo:
    """A model repository: commits, each a full set of files, and what names point to them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, bytes], message: str) -> str:
        """Set a branch to a new commit; its id."""
        self.messages.append(message)
        content = [
            str(len(self.messages)),
            *(f"{name}{hashlib.sha1(data).hexdigest()}" for name, data in files.items()),
        ]
        commit = hashlib.sha1("".join(content).encode()).hexdigest()
        self.commits[commit], self.refs[ref] = files, commit
        return commit

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs[revision]]


class FakeHub:
    """The server. Faults are taken one by one: ``hub.faults.append(("PUT", "/lfs/", 503))``; "drop" closes the line."""

    def __init__(self, part_bytes: int | None = None) -> None:
        self.part_bytes = part_bytes
        self.users: dict[str, str] = {}  # by token
        self.readers: set[str] = set()  # tokens that may not write
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[tuple[str, str, int | str]] = []
        self.words = "as the test asked"  # of a fault
        self.requests: list[str] = []
        self.leaks: list[str] = []  # requests to the storage host that carried the token
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubApi,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url, self.storage = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"

    def __enter__(self) -> "FakeHub":
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """A repository that is there already."""
        repo = self.repos[repo_id] = Repo(private)
        repo.commit("main", dict(files), "as it was")
        return repo

    def sent(self, method: str, part: str) -> int:
        """How many requests of a kind came."""
        return sum(line.startswith(method + " ") and part in line for line in self.requests)
