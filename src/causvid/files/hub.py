"""Where a model's files are: a path, or a name on the Hugging Face Hub with its cache and its offline mode."""

import re
from collections.abc import Sequence
from pathlib import Path

_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<inside>[\w-].*[^/]))?/?")
_FILE = (".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin", ".json")


def find(name: str | Path, *, what: str, files: Sequence[str] = ("*",), fetch: bool = True) -> Path:
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
    match = check_name(name, what=what)
    if match is None:
        return path
    from huggingface_hub import constants, snapshot_download

    repository, inside = match["repository"], match["inside"] or ""
    alone = inside.endswith(_FILE)
    patterns = [inside] if alone else [f"{inside}/{pattern}".lstrip("/") for pattern in files]
    try:
        found = Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=not fetch)) / inside
        if found.is_file() or (found.is_dir() and any(found.iterdir())):
            return found
        reason = f"{repository} holds no {inside or 'file that is needed'}"
    except (OSError, ValueError) as error:  # huggingface_hub's errors are of these kinds
        reason = " ".join(str(error).split()).rstrip(".") if fetch else "the Hub was not asked"
    command = f"hf download {repository} {inside if alone else ''}".rstrip()
    raise ValueError(
        f"{what}={name} was not found: it is no path, and not in the cache {constants.HF_HUB_CACHE}, and {reason}; "
        f"run `{command}` where there is a network, or give the path of a copy"
    )


def check_name(name: str | Path, *, what: str) -> re.Match[str] | None:
    """Return the parts of a name on the Hub, None for a path that exists; raise a `ValueError` if it is neither."""
    path = Path(name).expanduser()
    if path.exists():
        return None
    match = _NAME.fullmatch(name.as_posix() if isinstance(name, Path) else name)
    if match is None or ".." in path.parts:
        raise ValueError(f"{what}={name} does not exist; give a path, or owner/name on the Hugging Face Hub")
    return match
