"""A local server that imitates the Hugging Face hub for public, private, gated and missing models.

It answers requests for the metadata of a model and for the head of a file, with the hub's headers for refusals.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "aB3" * 11 + "x"
# Token of an account without access to the gated model.
OTHER_TOKEN = "hf_" + "zY9" * 11 + "w"
PAGE = b"<html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Handle one request: /api/models/<name>..., or /<name>/resolve/main/<file>."""

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
        headers = {"X_Error_Code": code, "X_Error_Message": message}
        self.answer(status, **{name: value for name, value in headers.items() if value})

    def do_GET(self) -> None:  # noqa: N802  method name of http.server
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        if fault := self.server.fault:
            return fault(self)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN, OTHER_TOKEN):
            return self.refuse(401, message="Invalid credentials in Authorization header")
        is_file = "/resolve/main/" in self.path
        name = re.split("/(?:resolve|revision|tree)/", self.path)[0].removeprefix("/api/models").strip("/")
        if name == "org/elsewhere" and is_file:
            return self.answer(302, Location=self.server.elsewhere + "/weights", X_Repo_Commit="abc")
        if name == "org/moved" and not self.path.startswith("/api/models/"):
            return self.answer(307, Location=self.path.replace("moved", "gated"))
        if (name == "org/private" and token != TOKEN) or name.split("/")[-1] == "missing":
            return self.refuse(404 if token else 401, "RepoNotFound", "" if token else "Invalid username or password.")
        if name == "org/gated" and is_file and token != TOKEN:
            return self.refuse(403 if token else 401, "GatedRepo", "Access to model org/gated is restricted")
        if name == "org/gguf" and is_file:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        metadata = {"id": name, "gated": False, "private": False, "sha": "0" * 40, "siblings": []}
        body = [] if "/tree/" in self.path else metadata
        return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def serving_hub():
    """Run the server and yield it, with its `address`, the received `requests`, and a `fault` that can answer them."""
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
