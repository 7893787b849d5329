"""Where a model's files are: a path, or a name on the Hugging Face Hub with its cache and its offline mode."""

import re
from collections.abc import Sequence
from pathlib import Path

_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<inside>[\w-].*[^/]))?/?")
_FILE = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".json")


def find(name: str | Path, *, what: str, files: Sequence[str] | None = None, fetch: bool = True) -> Path:
    """Return the local path of `name`, fetching it first if it is on the Hub and not in the cache.

    Args:
        name: a path, which is returned as it is; or "owner/name" or "owner/name/a file or folder inside".
        what: the option that names it, for messages.
        files: patterns of the only files needed of a folder, such as "vae/*"; by default all of them.
        fetch: whether the Hub may be asked, or the cache alone.

    Raises:
        ValueError: if it is nowhere, saying where it was looked for and how to supply it.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    match = _NAME.fullmatch(name.as_posix() if isinstance(name, Path) else name)
    if match is None or ".." in path.parts:
        raise ValueError(f"{what}={name} does not exist; give a path, or owner/name on the Hugging Face Hub")
    repository, inside = match["repository"], match["inside"]
    if inside is None:
        found = _fetch(repository, what=what, name=name, patterns=files, ask=fetch)
    elif inside.endswith(_FILE):
        found = _fetch(repository, what=what, name=name, file=inside, ask=fetch)
    else:
        patterns = [f"{inside}/{pattern}" for pattern in files or ("*",)]
        found = _fetch(repository, what=what, name=name, patterns=patterns, ask=fetch) / inside
    if not found.exists() or (found.is_dir() and not any(found.iterdir())):
        raise ValueError(_missing(name, what, repository, f"{repository} holds no {inside or 'file that is needed'}"))
    return found


def _fetch(
    repository: str,
    *,
    what: str,
    name: str | Path,
    ask: bool,
    file: str | None = None,
    patterns: Sequence[str] | None = None,
) -> Path:
    """Return the path in the cache of one file, or of a repository's folder with the files that fit `patterns`."""
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if file is not None:
            return Path(hf_hub_download(repository, file, local_files_only=not ask))
        wanted = None if patterns is None else list(patterns)
        return Path(snapshot_download(repository, allow_patterns=wanted, local_files_only=not ask))
    except (OSError, ValueError) as error:  # huggingface_hub's errors are of these kinds
        reason = _reason(error) if ask else "the Hub was not asked"
        raise ValueError(_missing(name, what, repository, reason, file)) from None


def _reason(error: Exception) -> str:
    """Return in a few words why the Hub returned nothing."""
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids asking the Hub"
    if isinstance(error, errors.GatedRepoError):
        return "the Hub asks to accept its terms and to log in first"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub has no such repository, or shows it to others only"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the Hub could not be reached"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _missing(name: str | Path, what: str, repository: str, reason: str, file: str | None = None) -> str:
    from huggingface_hub import constants

    command = " ".join(filter(None, ("hf download", repository, file)))
    return (
        f"{what}={name} was not found: it is no path, and not in the cache {constants.HF_HUB_CACHE}, and {reason}; "
        f"run `{command}` where there is a network, or give the path of a copy"
    )
