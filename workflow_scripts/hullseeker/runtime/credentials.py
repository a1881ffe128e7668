"""Find and check API keys and tokens (environment variables, the Hugging Face token file), and mask them in text.

Needs: the standard library.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from urllib.parse import quote, unquote

KEY_VARIABLE = "MP_API_KEY"
# In order of precedence, as in huggingface_hub; the file that `hf auth login` writes comes last.
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Environment variables whose values are masked in all output.
SECRETS = (KEY_VARIABLE, "PMG_MAPI_KEY", *TOKEN_VARIABLES, "HF_OIDC_ID_TOKEN")
# Environment variables that hold URLs, which may contain a user and a password.
_ADDRESSES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "HF_ENDPOINT", "MP_API_ENDPOINT")
# A longer value is not a token, and is not searched for in log lines.
_LONGEST = 1000
# A shorter value occurs in many texts by chance and is not masked.
_SHORTEST = 4
_SHORTEST_IN_CONFIG = 8
# A shorter text without a colon before the @ of a URL is a user name, not a token.
_SHORTEST_TOKEN = 16
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^\s/?#]+@")
_SECRET_IN_QUERY = re.compile(r"([?&][\w.-]*(?:token|key|secret|passw|signature|credential)[\w.-]*=)[^&\s'\"<>]+", re.I)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
_NAMES_A_SECRET = re.compile(r"(^|_|-)(api_?key|key|token|secret|passw(or)?d|credentials?)$", re.IGNORECASE)


class CredentialError(ValueError):
    """A key or token is malformed or unreadable; the message never contains its value."""


def token_file() -> Path:
    """Return the path of the file in which `hf auth login` stores the token."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")).expanduser()


def hub_login() -> tuple[str, str] | None:
    """Return the source of the Hugging Face token and the token, stripped of white space; None if there is no token.

    Raises CredentialError if the token has an invalid character, or its file cannot be read.
    """
    value = next((value for name in TOKEN_VARIABLES if (value := os.environ.get(name))), "").strip()
    if value:
        source = next(name for name in TOKEN_VARIABLES if os.environ.get(name))
    else:
        path = token_file()
        source = f"the token file {path}"
        try:
            value = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise CredentialError(f"{source} cannot be read ({why}); log in again with `hf auth login`") from None
        if not value:
            return None
    if problem := problem_with_secret(source, value):
        raise CredentialError(f"{problem}; copy the token again, or log in with `hf auth login`")
    return source, value


def hub_token() -> str | None:
    """Return the Hugging Face token, None if not logged in; raises CredentialError if it is malformed."""
    login = hub_login()
    return login[1] if login else None


def problem_with_secret(name: str, value: str) -> str | None:
    """Return why a value cannot be a key or token (length or invalid character), None if it can.

    The message never contains the value. Leading and trailing white space is ignored.
    """
    value = value.strip()
    if len(value) > _LONGEST:
        return f"{name} has {len(value)} characters, more than a key or token has"
    for position, char in enumerate(value, start=1):
        if not "!" <= char <= "~":
            where = f"U+{ord(char):04X}, character {position} of {len(value)}"
            return f"{name} has a character that no key or token has ({where})"
    return None


def names_a_secret(name: object) -> bool:
    """Return whether the name of a config key suggests that its value is a secret (api_key, token, password, ...)."""
    return bool(_NAMES_A_SECRET.search(str(name)))


def secret_in(text: str) -> str | None:
    """Return which secret a config text contains, as a predicate ("holds the value of HF_TOKEN"); None if none."""
    for name, value in _secrets():
        if len(value) >= _SHORTEST_IN_CONFIG and value in text:
            return f"holds the value of {name}"
    if _HUB_TOKEN.search(text):
        return "holds a token of the Hugging Face hub"
    if _USER_IN_ADDRESS.search(text):
        return "is an address with a user or password in it"
    return "is an address with a secret in it" if "://" in text and _SECRET_IN_QUERY.search(text) else None


def without_secrets(text: str) -> str:
    """Return a text with each secret replaced by its name in angle brackets, and without the credentials in URLs.

    Masks the values of the environment variables and of the Hugging Face token file, plain, stripped, as bytes, or
    escaped for Python, JSON, HTML or URLs, and everything that has the format of a Hugging Face token.
    """
    if compiled := _pattern(_secrets()):
        pattern, names = compiled
        text = pattern.sub(lambda match: f"<{names[match.lastgroup or '']}>", text)
    text = _USER_IN_ADDRESS.sub("<credentials>@", _HUB_TOKEN.sub("<token of the hub>", text))
    return _SECRET_IN_QUERY.sub(r"\1<secret>", text)


def _secrets() -> tuple[tuple[str, str], ...]:
    """Return (name, value) of every secret in the environment and the token file, longest value first."""
    name_of_value = {os.environ.get(name, "").strip(): name for name in reversed(SECRETS)}
    for name in _ADDRESSES:
        for variable in (name, name.lower()):
            user = os.environ.get(variable, "").partition("://")[2].rpartition("@")[0]
            is_user_name = ":" not in user and len(user) < _SHORTEST_TOKEN
            user = "" if is_user_name else user
            password = user.partition(":")[2]
            for value in (user, unquote(user), base64.b64encode(unquote(user).encode(errors="replace")).decode()):
                name_of_value.setdefault(value if user else "", f"credentials of {variable}")
            # Of an unescaped password, error messages quote the part that was parsed as a port.
            for value in (password, unquote(password), *re.split(r"[/?#@:\[\]]", password)):
                name_of_value.setdefault(value, f"password of {variable}")
    name_of_value.setdefault(_stored_token(), "token of the token file")
    long_enough = {value: name for value, name in name_of_value.items() if len(value) >= _SHORTEST}
    return tuple((long_enough[value], value) for value in sorted(long_enough, key=lambda v: (-len(v), v)))


def _stored_token() -> str:
    """Return the content of the token file, empty if it is missing, unreadable or too large to be a token."""
    try:
        path = token_file()
        stat = path.stat()
        return _read(path, stat.st_mtime_ns) if stat.st_size <= _LONGEST else ""
    except (OSError, RuntimeError):  # RuntimeError: the home directory is unknown
        return ""


@lru_cache(maxsize=4)
def _read(path: Path, _modified_ns: int) -> str:
    return path.read_bytes().decode(errors="surrogateescape").strip()


@lru_cache(maxsize=8)
def _pattern(secrets: tuple[tuple[str, str], ...]) -> tuple[re.Pattern, dict[str, str]] | None:
    """Return a pattern with one group per secret, and the names of the secrets by group; None without secrets."""
    names = {f"s{i}": name for i, (name, _) in enumerate(secrets)}
    parts = [f"(?P<s{i}>{_any_form_of(value)})" for i, (_, value) in enumerate(secrets)]
    return (re.compile("|".join(parts)), names) if parts else None


def _any_form_of(secret: str) -> str:
    """Return a pattern of all spellings of a secret; non-printing characters may be missing or white space."""
    parts = []
    for prints, chars in groupby(secret, key=lambda char: char.isprintable() and not char.isspace()):
        forms = [_forms_of(char) for char in chars]
        parts.append("".join(forms) if prints else f"(?:{'|'.join(dict.fromkeys(forms))}|[\\s+])*")
    return "".join(parts)


def _forms_of(char: str) -> str:
    """Return a pattern that matches one character of a secret, plain or escaped."""
    data = char.encode("utf-8", errors="surrogateescape" if "\udc80" <= char <= "\udcff" else "replace")
    quoted = quote(data, safe="")
    forms = {
        char,
        repr(char)[1:-1],
        repr(data)[2:-1],
        json.dumps(char)[1:-1],
        quoted,
        quoted.lower(),
        html.escape(char),
    }
    if char == "'":
        forms.add("\\'")
    if "\x80" <= char <= "\xff":
        forms |= {repr(char.encode("latin-1"))[2:-1], quote(char.encode("latin-1"), safe="")}
    # Text that was escaped repeatedly has more backslashes.
    escaped = [re.escape(form).replace(r"\\", r"\\+") for form in sorted(forms, key=lambda f: (-len(f), f))]
    return escaped[0] if len(escaped) == 1 else f"(?:{'|'.join(escaped)})"
