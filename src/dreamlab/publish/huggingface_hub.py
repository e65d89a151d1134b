"""The Hugging Face Hub: where published models are put and taken from. The token stays with its own library."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from dreamlab.core.errors import RunError, UserError, missing_package
from dreamlab.publish import package

MOST_BYTES = 16 << 30
"""of one model's files, at most"""


class Fetched(NamedTuple):
    """A model that was downloaded, or lay in the Hub's cache."""

    folder: Path
    root: Path
    """links in the folder lead nowhere but here"""
    commit: str


def upload(folder: Path, repo: str, private: bool, message: str) -> str:
    """Put a published folder into a model repository, made if need be, as one commit. Returns its address.

    Raises:
        UserError: no token, or one that may not write there.
        RunError: the Hub cannot be reached.
    """
    hub = _library()
    refuse_no_token()
    api = hub.HfApi(endpoint=_endpoint())
    with _told(repo):
        api.create_repo(repo, private=private, exist_ok=True, repo_type="model")
        old = ["*.safetensors", "*.mp4", "evaluations/*"]  # of what was published there before
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(package.KNOWN), delete_patterns=old,
            commit_message=message,
        )  # fmt: skip
    return f"{_endpoint() or hub.constants.ENDPOINT}/{repo}"


def refuse_no_token() -> None:
    """Raises UserError where nobody is logged in: before work is done that would be for nothing."""
    if _library().get_token() is None:
        raise UserError(
            "there is no token for the Hugging Face Hub: type hf auth login, or set HF_TOKEN to one that may write "
            "(https://huggingface.co/settings/tokens). --dry-run needs none"
        )


def download(repo: str, revision: str | None = None) -> Fetched:
    """The files of a model that loading it needs, from the Hub or its cache.

    Raises:
        UserError: there is no such model, or it holds what is refused.
        RunError: the Hub cannot be reached.
    """
    hub = _library()
    where = f"{repo}{f'@{revision}' if revision else ''} on the Hub"
    with _told(repo, revision):
        if hub.constants.HF_HUB_OFFLINE:
            folder = hub.snapshot_download(repo, revision=revision, local_files_only=True)
            return _fetched(folder)
        info = hub.HfApi(endpoint=_endpoint()).model_info(repo, revision=revision, files_metadata=True)
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or ()}
        package.refuse_names(list(sizes), where)
        wanted = [name for name in sizes if "/" not in name and any(fnmatch(name, p) for p in package.NEEDED)]
        if not {"config.yaml", "state.json"} <= set(wanted):
            raise UserError(
                f"{where} is no model of dreamlab: it has no config.yaml and state.json, as dreamlab publish writes "
                f"them; it holds {', '.join(sorted(sizes)[:8]) or 'nothing'}"
            )
        if (total := sum(sizes[name] for name in wanted)) > MOST_BYTES:
            raise UserError(f"{where} holds {total >> 30} GiB of weights; more than {MOST_BYTES >> 30} are refused")
        folder = hub.snapshot_download(
            repo, revision=info.sha, allow_patterns=wanted, endpoint=_endpoint(), max_workers=4
        )
        return _fetched(folder)


def _fetched(folder: str) -> Fetched:
    path = Path(folder)
    return Fetched(path, path.parent.parent, path.name)  # <repository>/snapshots/<commit>, with links into its blobs


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _library() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise missing_package("huggingface_hub", "hub", "the Hugging Face Hub") from error
    importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    importlib.import_module("huggingface_hub.constants")
    return hub


@contextmanager
def _told(repo: str, revision: str | None = None) -> Iterator[None]:
    """Errors of the Hub in words; nothing of a request's headers is among them."""
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repo} on the Hub has no revision {revision!r}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"there is no model {repo!r} on the Hugging Face Hub, or it is private and you are not logged in "
            "(hf auth login)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise RunError(
            f"{repo} is not in the Hub's cache here, and the Hub cannot be reached ({type(error).__name__})"
        ) from error
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        if code in (401, 403):
            raise UserError(
                f"the Hub does not let this token do that with {repo} ({code}): log in with one that may "
                "(hf auth login)"
            ) from error
        raise RunError(f"the Hub answered {code} for {repo}: try again later") from error
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith(("httpx", "httpcore")):
            raise RunError(f"the Hub cannot be reached for {repo} ({type(error).__name__})") from error
        raise
