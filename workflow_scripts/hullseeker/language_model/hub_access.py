"""Checks whether the Hugging Face hub gives access to a file of a model, with the requests of its own client.

Needs: the standard library; huggingface_hub to renew a login. Nothing is downloaded.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from hullseeker.language_model.hub_models import offline
from hullseeker.runtime.credentials import CredentialError, hub_login, token_file, without_secrets
from hullseeker.runtime.http_requests import Response, send_request

_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_NAME = re.compile(r"(\w[\w.-]*/)?\w[\w.-]{0,94}\w?", re.ASCII)
# Statuses of proxies and overloaded servers, which may disappear on retry.
_MAY_PASS = (407, 408, 425, 429)


def is_hub_name(name: str) -> bool:
    """Return whether this is a valid hub name: owner/model, or a name without owner (gpt2)."""
    return bool(_NAME.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")


def hub_address() -> str:
    """Return the address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def problem_with_login() -> str | None:
    """Return why the hub's token is unusable, as a clause; None if it is usable, absent, or the hub is offline.

    Libraries send the token with every request, even for cached models.
    """
    if offline():
        return None
    try:
        hub_login()
    except CredentialError as error:
        return str(error)
    return None


def refusal_of_hub(repository: str, file: str = "config.json", must_answer: bool = True) -> str | None:
    """Return why the hub denies a file of a model's main revision, as a clause; None if the file is accessible.

    The model and the file are both requested, because the description of a gated model is public but its files are
    not. An unreachable hub counts as a refusal only if `must_answer`.
    """
    hub, name = hub_address(), quote(repository)
    try:
        login = _renewed(hub_login())
    except CredentialError as error:
        return str(error)
    token = {"Authorization": f"Bearer {login[1]}"} if login else {}
    model_answer = send_request(f"{hub}/api/models/{name}", token)
    if model_answer.status != 200 or model_answer.is_page:
        return _refusal_in(model_answer, repository, file, login, must_answer)
    file_answer = send_request(f"{hub}/{name}/resolve/main/{quote(file)}", token, method="HEAD")
    # Large files redirect only authorised clients; a mirror may not support HEAD.
    if 200 <= file_answer.status < 400 or (
        file_answer.status in (404, 405, 501) and "x-error-code" not in file_answer.headers
    ):
        return None
    return _refusal_in(file_answer, repository, file, login, must_answer)


def _refusal_in(
    answer: Response, repository: str, file: str, login: tuple[str, str] | None, must_answer: bool
) -> str | None:
    """Return the reason for an unsuccessful answer, from its status and the hub's error headers."""
    # A mirror's address may contain credentials.
    hub, status = without_secrets(hub_address()), answer.status
    page = f"{hub}/{repository}"
    code, message = answer.headers.get("x-error-code"), answer.headers.get("x-error-message", "")
    is_gateway = not (code or message) and (
        answer.is_page or answer.headers.get("content-type", "").startswith("text/html")
    )
    if not 400 <= status < 500 or status in _MAY_PASS or is_gateway:
        description = f"a page with status {status}, of a gateway or proxy" if is_gateway else answer.in_words
        return f"{hub} does not answer from here ({description})" if must_answer else None
    if message.startswith("Invalid credentials"):
        source = login[0] if login else "HF_ENDPOINT"
        return (
            f"{hub} refuses the token of {source} ({status}); create a new one at {hub}/settings/tokens, and {_LOG_IN}"
        )
    if code == "GatedRepo" and login:
        return (
            f"{hub} has not given the account of {login[0]} access to it ({status}): it is gated; accept its licence "
            f"at {page} and wait until access is granted, or let the token read gated repositories"
        )
    if code == "GatedRepo":
        return (
            f"{hub} provides it only to accounts that accepted its licence ({status}); accept it at {page}, and "
            f"{_LOG_IN}"
        )
    if code == "EntryNotFound":
        return f"{hub} has the model but not {file} ({status}); choose one that transformers can load"
    if code == "RepoNotFound" and login:
        return f"{hub} has no model of that name that the account of {login[0]} may see ({status}); check the name"
    if code == "RepoNotFound":
        return f"{hub} has no public model of that name ({status}); check the name, or {_LOG_IN} if it is private"
    suffix = f": {message}" if message else ""
    return f"{hub} does not provide it ({status}{suffix}); check the name, or accept its licence there and {_LOG_IN}"


def _renewed(login: tuple[str, str] | None) -> tuple[str, str] | None:
    """Return the login; an expiring token of a browser login is renewed by huggingface_hub."""
    try:
        renewable = "refresh_token" in (token_file().parent / "stored_tokens").read_text(errors="replace")
    except OSError:
        return login
    if not renewable or login is None or not login[0].startswith("the token file"):
        return login
    try:
        from huggingface_hub import get_token

        return login[0], get_token() or login[1]
    except Exception:  # noqa: BLE001  without the package or a network, keep the stored token
        return login
