"""A name becomes a path: a local one as it is, one of the Hub through its cache, or one line that says what to do."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from causvid.files.hub import find

COMMIT = "a" * 40
FILES = ("model_index.json", "vae/config.json", "checkpoints/student.pt")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds owner/name as the Hub's library lays it out, and no network."""
    place = tmp_path / "hub"
    repository = place / "models--owner--some.name"
    for name in FILES:
        file = repository / "snapshots" / COMMIT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for module in ("constants", "file_download", "_snapshot_download"):
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(f"huggingface_hub.{module}.{name}", str(place), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_that_exists_is_returned_as_it_is(tmp_path: Path, kind: type) -> None:
    assert find(kind(tmp_path), what="model") == tmp_path


def test_a_path_wins_over_a_repository_of_the_same_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "some.name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find("owner/some.name", what="model") == Path("owner/some.name")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_repository_a_file_and_a_folder_in_it_come_from_the_cache(cache: Path, kind: type) -> None:
    assert find(kind("owner/some.name"), what="model") == cache
    assert find(kind("owner/some.name"), what="model", files=["vae/*"]) == cache
    assert find(kind("owner/some.name/vae"), what="model") == cache / "vae"
    assert find(kind("owner/some.name/checkpoints/student.pt"), what="student") == cache / "checkpoints" / "student.pt"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("owner/other", "hf download owner/other`"),
        ("owner/other/student.pt", "hf download owner/other student.pt`"),
        ("owner/some.name/checkpoints/other.pt", "hf download owner/some.name checkpoints/other.pt`"),
        ("owner/some.name/nowhere", "hf download owner/some.name`"),
    ],
)
def test_what_is_not_cached_is_named_with_the_cache_and_the_command(cache: Path, name: str, command: str) -> None:
    with pytest.raises(ValueError, match="student=") as error:
        find(name, what="student")
    message = str(error.value)
    assert f"student={name} was not found" in message and command in message
    assert str(constants.HF_HUB_CACHE) in message and "\n" not in message


@pytest.mark.parametrize("name", ["nowhere.pt", "/no/such/folder", "./no/folder", "../no/folder", "a b/c d"])
def test_what_cannot_be_a_name_of_the_hub_is_never_asked_for(cache: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"does not exist; give a path, or owner/name"):
        find(name, what="model")
