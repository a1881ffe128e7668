"""Secrets of the environment and of the hub's token file: found, checked, and taken out of every text.

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
# The first that is set counts, as for huggingface_hub; after them the file that `hf auth login` writes.
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Environment variables whose values are never repeated.
SECRETS = (KEY_VARIABLE, "PMG_MAPI_KEY", *TOKEN_VARIABLES, "HF_OIDC_ID_TOKEN")
# Environment variables with addresses, which may hold a user and a password.
_ADDRESSES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "HF_ENDPOINT", "MP_API_ENDPOINT")
# What is longer is no token; nor is it looked for in every line of a log.
_LONGEST = 1000
# A shorter value stands in many texts by chance.
_SHORTEST = 4
_SHORTEST_IN_CONFIG = 8
# What stands alone before the @ of an address and is shorter is a user's name.
_SHORTEST_TOKEN = 16
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^\s/?#]+@")
_SECRET_IN_QUERY = re.compile(r"([?&][\w.-]*(?:token|key|secret|passw|signature|credential)[\w.-]*=)[^&\s'\"<>]+", re.I)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
_NAMES_A_SECRET = re.compile(r"(^|_|-)(api_?key|key|token|secret|passw(or)?d|credentials?)$", re.IGNORECASE)


class CredentialError(ValueError):
    """A key or token that cannot be used as it is; the message never shows it."""


def token_file() -> Path:
    """Return the file in which `hf auth login` keeps the token."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.path.expandvars(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")).expanduser()


def hub_login() -> tuple[str, str] | None:
    """Return where the hub's token comes from and the token without white space around it; None where there is none.

    CredentialError where the token has a character that no token has, or its file cannot be read.
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
            why = getattr(error, "strerror", None) or "it is no text"
            raise CredentialError(f"{source} cannot be read ({why}); log in again with `hf auth login`") from None
        if not value:
            return None
    if problem := problem_with_secret(source, value):
        raise CredentialError(f"{problem}; copy the token again, or log in with `hf auth login`")
    return source, value


def hub_token() -> str | None:
    """Return the token for the hub, None without a login; CredentialError where it cannot be used."""
    login = hub_login()
    return login[1] if login else None


def problem_with_secret(name: str, value: str) -> str | None:
    """Return that a value has a character that no key or token has, without showing the value; None where it has none.

    White space around it does no harm.
    """
    value = value.strip()
    if len(value) > _LONGEST:
        return f"{name} has {len(value)} characters, more than a key or token has"
    for place, char in enumerate(value, start=1):
        if not "!" <= char <= "~":
            return f"{name} has a character that no key or token has (U+{ord(char):04X}, the {place}. of {len(value)})"
    return None


def names_a_secret(name: object) -> bool:
    """Whether the name of a key says that its value is a secret."""
    return bool(_NAMES_A_SECRET.search(str(name)))


def secret_in(text: str) -> str | None:
    """Return which secret a text of the config holds, as the rest of a sentence; None where it holds none."""
    for name, value in _secrets():
        if len(value) >= _SHORTEST_IN_CONFIG and value in text:
            return f"holds the value of {name}"
    if _HUB_TOKEN.search(text):
        return "holds a token of the Hugging Face hub"
    if _USER_IN_ADDRESS.search(text):
        return "is an address with a user or password in it"
    return "is an address with a secret in it" if "://" in text and _SECRET_IN_QUERY.search(text) else None


def without_secrets(text: str) -> str:
    """Return a text with secrets replaced by their names, however they are written, and addresses without users.

    Found are the values of the environment and of the hub's token file: as they are, without white space around them,
    escaped as Python, JSON, HTML or an address would, and as bytes; beside them what looks like a token of the hub.
    """
    if found := _pattern(_secrets()):
        pattern, names = found
        text = pattern.sub(lambda match: f"<{names[match.lastgroup or '']}>", text)
    text = _USER_IN_ADDRESS.sub("<credentials>@", _HUB_TOKEN.sub("<token of the hub>", text))
    return _SECRET_IN_QUERY.sub(r"\1<secret>", text)


def _secrets() -> tuple[tuple[str, str], ...]:
    """Return names and values of what is secret here, the longest first."""
    found = {os.environ.get(name, "").strip(): name for name in reversed(SECRETS)}
    for name in _ADDRESSES:
        for variable in (name, name.lower()):
            user = os.environ.get(variable, "").partition("://")[2].rpartition("@")[0]
            name_alone = ":" not in user and len(user) < _SHORTEST_TOKEN
            user = "" if name_alone else user
            password = user.partition(":")[2]
            for value in (user, unquote(user), base64.b64encode(unquote(user).encode(errors="replace")).decode()):
                found.setdefault(value if user else "", f"credentials of {variable}")
            # Where a password should have been escaped, errors name what they take for a port.
            for value in (password, unquote(password), *re.split(r"[/?#@:\[\]]", password)):
                found.setdefault(value, f"password of {variable}")
    found.setdefault(_in_token_file(), "token of the token file")
    long_enough = {value: name for value, name in found.items() if len(value) >= _SHORTEST}
    return tuple((long_enough[value], value) for value in sorted(long_enough, key=lambda v: (-len(v), v)))


def _in_token_file() -> str:
    try:
        path = token_file()
        about = path.stat()
        return _read(path, about.st_mtime_ns) if about.st_size <= _LONGEST else ""
    except (OSError, RuntimeError):  # RuntimeError: no home
        return ""


@lru_cache(maxsize=4)
def _read(path: Path, _modified_ns: int) -> str:
    return path.read_bytes().decode(errors="surrogateescape").strip()


@lru_cache(maxsize=8)
def _pattern(secrets: tuple[tuple[str, str], ...]) -> tuple[re.Pattern, dict[str, str]] | None:
    """Return a pattern with a group per secret, and the secret's name by its group; None where there is no secret."""
    names = {f"s{i}": name for i, (name, _) in enumerate(secrets)}
    parts = [f"(?P<s{i}>{_any_form_of(value)})" for i, (_, value) in enumerate(secrets)]
    return (re.compile("|".join(parts)), names) if parts else None


def _any_form_of(secret: str) -> str:
    """Return a pattern of a secret in all ways in which it is written; what does not print may be gone or a blank."""
    parts = []
    for prints, chars in groupby(secret, key=lambda char: char.isprintable() and not char.isspace()):
        forms = [_forms_of(char) for char in chars]
        parts.append("".join(forms) if prints else f"(?:{'|'.join(dict.fromkeys(forms))}|[\\s+])*")
    return "".join(parts)


def _forms_of(char: str) -> str:
    """Return a pattern of the ways in which a character of a secret is written."""
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
    # What was escaped twice has more backslashes.
    escaped = [re.escape(form).replace(r"\\", r"\\+") for form in sorted(forms, key=lambda f: (-len(f), f))]
    return escaped[0] if len(escaped) == 1 else f"(?:{'|'.join(escaped)})"
