"""Whether the Hugging Face hub would hand out a file of a model: it is asked, as its own client asks it.

Needs: the standard library; huggingface_hub where a login has to be renewed. Nothing is downloaded.
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
# Of a proxy, or of a server that has too much to do.
_MAY_PASS = (407, 408, 425, 429)


def is_hub_name(name: str) -> bool:
    """Whether the hub can have a model of this name: owner/model, of few a name alone (gpt2)."""
    return bool(_NAME.fullmatch(name)) and "--" not in name and ".." not in name and not name.endswith(".git")


def hub_address() -> str:
    """Return the address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def problem_with_login() -> str | None:
    """Return why the hub's token cannot be used, as a clause; None where it can, there is none, or nobody is asked.

    Libraries send it with every question, of models in the cache too.
    """
    if offline():
        return None
    try:
        hub_login()
    except CredentialError as error:
        return str(error)
    return None


def refusal_of_hub(repository: str, file: str = "config.json", must_answer: bool = True) -> str | None:
    """Return why the hub would not hand out a file of a model's main revision, as a clause; None where it would.

    The hub tells everyone about a gated model, and gives its files to few: it is asked for the model, then for the
    file. Unless it must answer, a hub that is out of reach is no reason.
    """
    hub, name = hub_address(), quote(repository)
    try:
        login = _renewed(hub_login())
    except CredentialError as error:
        return str(error)
    token = {"Authorization": f"Bearer {login[1]}"} if login else {}
    of_model = send_request(f"{hub}/api/models/{name}", token)
    if of_model.status != 200 or of_model.is_page:
        return _refusal_in(of_model, repository, file, login, must_answer)
    of_file = send_request(f"{hub}/{name}/resolve/main/{quote(file)}", token, method="HEAD")
    # Where the file lies elsewhere, its place is told to those who may have it; a mirror may know no HEAD.
    if 200 <= of_file.status < 400 or (of_file.status in (404, 405, 501) and "x-error-code" not in of_file.headers):
        return None
    return _refusal_in(of_file, repository, file, login, must_answer)


def _refusal_in(
    answer: Response, repository: str, file: str, login: tuple[str, str] | None, must_answer: bool
) -> str | None:
    """Return what an answer other than the one asked for means, by the headers in which the hub says it."""
    # A mirror's address may have a user in it.
    hub, status = without_secrets(hub_address()), answer.status
    page = f"{hub}/{repository}"
    code, words = answer.headers.get("x-error-code"), answer.headers.get("x-error-message", "")
    of_gateway = not (code or words) and (
        answer.is_page or answer.headers.get("content-type", "").startswith("text/html")
    )
    if not 400 <= status < 500 or status in _MAY_PASS or of_gateway:
        what = f"a page with status {status}, of a gateway or proxy" if of_gateway else answer.in_words
        return f"{hub} does not answer from here ({what})" if must_answer else None
    if words.startswith("Invalid credentials"):
        source = login[0] if login else "HF_ENDPOINT"
        return f"{hub} refuses the token of {source} ({status}); make another at {hub}/settings/tokens, and {_LOG_IN}"
    if code == "GatedRepo" and login:
        return (
            f"{hub} has not given the account of {login[0]} access to it ({status}): it is gated; accept its licence "
            f"at {page} and wait until access is granted, or let the token read gated repositories"
        )
    if code == "GatedRepo":
        return (
            f"{hub} gives it only to accounts that accepted its licence ({status}); accept it at {page}, and {_LOG_IN}"
        )
    if code == "EntryNotFound":
        return f"{hub} has the model without {file} ({status}); name one that transformers can load"
    if code == "RepoNotFound" and login:
        return f"{hub} has no model of that name that the account of {login[0]} may see ({status}); check the name"
    if code == "RepoNotFound":
        return f"{hub} has no public model of that name ({status}); check the name, or {_LOG_IN} where it is private"
    told = f": {words}" if words else ""
    return f"{hub} does not hand it out ({status}{told}); check the name, or accept its licence there and {_LOG_IN}"


def _renewed(login: tuple[str, str] | None) -> tuple[str, str] | None:
    """Return a login; of a browser's, whose token expires, the one that huggingface_hub renews."""
    try:
        renewable = "refresh_token" in (token_file().parent / "stored_tokens").read_text(errors="replace")
    except OSError:
        return login
    if not renewable or login is None or not login[0].startswith("the token file"):
        return login
    try:
        from huggingface_hub import get_token

        return login[0], get_token() or login[1]
    except Exception:  # noqa: BLE001  without the package or a network, the token that is there is asked with
        return login
