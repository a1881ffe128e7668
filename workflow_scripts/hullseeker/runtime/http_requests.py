"""HTTP requests to JSON APIs, which tell an API's own response from the HTML page of a gateway or proxy.

Needs: the standard library.
"""

from __future__ import annotations

import base64
import html
import json
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TIMEOUT_S = 10
PAGE_WAIT_S = 1.0
_MAX_BYTES = 1_000_000
_MAX_TITLE_LENGTH = 80
# Some gateways block the default user agent of urllib.
USER_AGENT = f"hullseeker (Python/{platform.python_version()} {platform.system()})"


@dataclass(frozen=True)
class Response:
    """An HTTP response: status, text and headers (names in lower case); status 0 and the error without a response."""

    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_page(self) -> bool:
        """Whether the body is not JSON, as in the error and login pages of gateways and proxies."""
        return self.status > 0 and is_page(self.text)

    @property
    def in_words(self) -> str:
        """A short description of a failed request, to put in brackets."""
        if not self.status:
            return self.text
        return f"{page_in_words(self.text)} with status {self.status}" if self.is_page else f"status {self.status}"


class _SameHostOnly(HTTPRedirectHandler):
    """Follow redirects to the same host only, with the same method and headers: no other host gets the token."""

    def redirect_request(self, request, _file, _code, _message, _headers, url):
        if urlsplit(url)[:2] != urlsplit(request.full_url)[:2]:
            return None
        return Request(url, headers=dict(request.header_items()), method=request.get_method())


def send_request(url: str, headers: Mapping[str, str] | None = None, method: str = "GET", tries: int = 1) -> Response:
    """Return the response to a request, sent up to `tries` times while the response is a page and not JSON.

    Credentials in the URL are sent as basic authentication. Follows redirects within the host; never raises OSError.
    """
    parts, headers = urlsplit(url), {"User-Agent": USER_AGENT, **(headers or {})}
    user, at, host = parts.netloc.rpartition("@")
    if at:
        url = urlunsplit(parts._replace(netloc=host))
        basic = base64.b64encode(unquote(user).encode()).decode()
        headers = {"Authorization": f"Basic {basic}", **headers}
    for n_left in reversed(range(tries)):
        response = _send_once(Request(url, headers=headers, method=method))
        if not (response.is_page and n_left):
            break
        time.sleep(PAGE_WAIT_S)
    return response


def _send_once(request: Request) -> Response:
    try:
        with build_opener(_SameHostOnly).open(request, timeout=TIMEOUT_S) as response:
            return _read_response(response.status, response)
    except HTTPError as error:
        return _read_response(error.code, error)
    except (OSError, ValueError, HTTPException) as error:
        return Response(0, str(getattr(error, "reason", error)))


def _read_response(status: int, response) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    try:
        text = response.read(_MAX_BYTES).decode(errors="replace")
    except (OSError, HTTPException):
        text = ""
    return Response(status, text, headers)


def is_page(text: str) -> bool:
    """Return whether a text is neither empty nor JSON."""
    try:
        json.loads(text)
    except ValueError:
        return bool(text.strip())
    return False


def page_in_words(text: str) -> str:
    """Return a description of an HTML page: its title, or else the beginning of its text."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title[1] if title else re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.I | re.DOTALL)
    words = " ".join(html.unescape(words).split())
    return f"a page, {words[:_MAX_TITLE_LENGTH]!r}," if words else "a page"


def is_refusal(status: int, text: str) -> bool:
    """Return whether a 401 or 403 is the API's own rejection of the key: JSON, or an empty 401.

    A page comes from a gateway, and an empty 403 may.
    """
    return status in (401, 403) and not is_page(text) and bool(text.strip() or status == 401)
