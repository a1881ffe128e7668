"""One question to a server, and what its answer is: the server's own, or a page of something in between.

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

ANSWER_WITHIN_S = 10
PAGE_WAIT_S = 1.0
_MOST_BYTES = 1_000_000
_MOST_SHOWN = 80
# Gateways refuse the name by which urllib calls itself.
USER_AGENT = f"hullseeker (Python/{platform.python_version()} {platform.system()})"


@dataclass(frozen=True)
class Answer:
    """The status of an answer (0: nothing answers), its headers in lower case, and its text, or why there is none."""

    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_page(self) -> bool:
        """Whether an API's address was answered by a page, as gateways and proxies do."""
        return self.status > 0 and is_page(self.text)

    @property
    def in_words(self) -> str:
        """Why this is no answer to work with, for brackets."""
        if not self.status:
            return self.text
        return f"{page_in_words(self.text)} with status {self.status}" if self.is_page else f"status {self.status}"


class _SameHostOnly(HTTPRedirectHandler):
    """Follow to the same host, with the same method and headers; a key or token is for no other."""

    def redirect_request(self, request, _file, _code, _message, _headers, url):
        if urlsplit(url)[:2] != urlsplit(request.full_url)[:2]:
            return None
        return Request(url, headers=dict(request.header_items()), method=request.get_method())


def ask(url: str, headers: Mapping[str, str] | None = None, method: str = "GET", tries: int = 1) -> Answer:
    """Return the answer of an address; a page is taken for one that may pass, and asked again."""
    parts, headers = urlsplit(url), {"User-Agent": USER_AGENT, **(headers or {})}
    user, at, host = parts.netloc.rpartition("@")
    if at:
        url = urlunsplit(parts._replace(netloc=host))
        basic = base64.b64encode(unquote(user).encode()).decode()
        headers = {"Authorization": f"Basic {basic}", **headers}
    for left in reversed(range(tries)):
        answer = _ask_once(Request(url, headers=headers, method=method))
        if not (answer.is_page and left):
            break
        time.sleep(PAGE_WAIT_S)
    return answer


def _ask_once(request: Request) -> Answer:
    try:
        with build_opener(_SameHostOnly).open(request, timeout=ANSWER_WITHIN_S) as answer:
            return _answer(answer.status, answer)
    except HTTPError as error:
        return _answer(error.code, error)
    except (OSError, ValueError, HTTPException) as error:
        return Answer(0, str(getattr(error, "reason", error)))


def _answer(status: int, answer) -> Answer:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    try:
        text = answer.read(_MOST_BYTES).decode(errors="replace")
    except (OSError, HTTPException):
        text = ""
    return Answer(status, text, headers)


def is_page(text: str) -> bool:
    """Whether a text is something else than JSON."""
    try:
        json.loads(text)
    except ValueError:
        return bool(text.strip())
    return False


def page_in_words(text: str) -> str:
    """Return what a page calls itself."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title[1] if title else re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.I | re.DOTALL)
    words = " ".join(html.unescape(words).split())
    return f"a page, {words[:_MOST_SHOWN]!r}," if words else "a page"


def is_refusal(status: int, text: str) -> bool:
    """Whether an API itself refuses a key: with JSON, or a bare 401; a page is of a gateway, a bare 403 may be."""
    return status in (401, 403) and not is_page(text) and bool(text.strip() or status == 401)
