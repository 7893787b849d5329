"""Jobs on disk: order, paging, damage."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from causvid.server.store import Job, Store


def job(name: str) -> Job:
    return Job(name, "queued", "{}", prompt="a", model="nano", size="96x64", seconds="1")


def test_jobs_are_taken_in_the_order_they_came(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    for name in "abc":
        store.add(job(name))
    assert [taken.id for taken in iter(store.take, None)] == ["a", "b", "c"]
    assert store.count("in_progress") == 3


def test_requeued_jobs_keep_their_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    for name in "abc":
        store.add(job(name))
    store.take()
    store.close()
    store = Store(tmp_path / "jobs.sqlite")
    store.requeue()
    taken = store.take()
    assert taken is not None
    assert taken.id == "a"


def test_a_table_of_the_first_version_keeps_its_jobs(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)
    old.execute(
        "CREATE TABLE jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, "
        "request TEXT NOT NULL, prompt TEXT NOT NULL, model TEXT NOT NULL, size TEXT NOT NULL, seconds TEXT NOT NULL, "
        "origin TEXT, created_at INTEGER NOT NULL, completed_at INTEGER, expires_at INTEGER, error TEXT)"
    )
    old.execute(
        "INSERT INTO jobs (id, status, request, prompt, model, size, seconds, created_at) "
        "VALUES ('a', 'in_progress', '{}', 'a swan', 'nano', '96x64', '1', 5)"
    )
    old.execute("PRAGMA user_version = 1")
    old.close()
    for _ in range(2):  # it is changed once, and opens again
        store = Store(tmp_path / "jobs.sqlite")
        store.requeue()
        taken = store.take("me")
        assert taken is not None
        assert (taken.id, taken.created_at, taken.owner, taken.progress) == ("a", 5, "me", 0)
        store.close()


def test_pages_cover_all_jobs_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    names = [str(number) for number in range(7)]
    for name in names:
        store.add(job(name))
    found, after, more = [], None, True
    while more:
        page, more = store.page(limit=3, order="asc", after=after)
        found += [one.id for one in page]
        after = found[-1]
    assert found == names
    store.remove("3")
    with pytest.raises(LookupError, match="no video '3'"):
        store.page(limit=3, after="3")


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(content)
    with pytest.raises(OSError, match=r"jobs\.sqlite is damaged: [^\n]+; move it away") as refused:
        Store(tmp_path / "jobs.sqlite")
    assert "\n" not in str(refused.value)


def test_damaged_pages_are_found_when_opened(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    store = Store(file)
    for number in range(500):
        store.add(job(f"video_{number}"))
    store.close()
    content = bytearray(file.read_bytes())
    content[8192:-4096] = b"\x5a" * (len(content) - 12288)
    file.write_bytes(content)
    with pytest.raises(OSError, match="is damaged"):
        Store(file)


def test_a_second_server_is_refused_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "jobs.sqlite")
    store.add(job("a"))
    other = f"from causvid.server.store import Store; from pathlib import Path; Store(Path({str(store._file)!r}))"
    run = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert "does another server run with this folder?" in run.stderr
    assert store.get("a").id == "a"
