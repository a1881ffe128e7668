"""A local server that answers as the Hugging Face hub does where models are public, private, gated or missing.

Of its API it has a model's metadata and the head of a file, with the headers by which the hub names a refusal.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "aB3" * 11 + "x"
# Of an account without access to the gated model.
OTHER_TOKEN = "hf_" + "zY9" * 11 + "w"
PAGE = b"<html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"


class Handler(BaseHTTPRequestHandler):
    """One request: /api/models/<name>..., or /<name>/resolve/main/<file>."""

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        told = {"X_Error_Code": code, "X_Error_Message": message}
        self.answer(status, **{name: value for name, value in told.items() if value})

    def do_GET(self) -> None:  # noqa: N802  the name is http.server's
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        if fault := self.server.fault:
            return fault(self)
        words = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if words not in ("", TOKEN, OTHER_TOKEN):
            return self.refuse(401, message="Invalid credentials in Authorization header")
        of_file = "/resolve/main/" in self.path
        name = re.split("/(?:resolve|revision|tree)/", self.path)[0].removeprefix("/api/models").strip("/")
        if name == "org/elsewhere" and of_file:
            return self.answer(302, Location=self.server.elsewhere + "/weights", X_Repo_Commit="abc")
        if name == "org/moved" and not self.path.startswith("/api/models/"):
            return self.answer(307, Location=self.path.replace("moved", "gated"))
        if (name == "org/private" and words != TOKEN) or name.split("/")[-1] == "missing":
            return self.refuse(404 if words else 401, "RepoNotFound", "" if words else "Invalid username or password.")
        if name == "org/gated" and of_file and words != TOKEN:
            return self.refuse(403 if words else 401, "GatedRepo", "Access to model org/gated is restricted")
        if name == "org/gguf" and of_file:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        about = {"id": name, "gated": False, "private": False, "sha": "0" * 40, "siblings": []}
        body = [] if "/tree/" in self.path else about
        return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def serving_hub():
    """Run the server; gives it with its `address`, the `requests` it got, and a `fault` to answer all by."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.fault, server.elsewhere = [], None, ""
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
