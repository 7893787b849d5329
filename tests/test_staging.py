"""One process has a folder; what a killed one left is removed, unless it may be all there is."""

import subprocess
import sys
from pathlib import Path

import pytest

from causvid.files.writing import new_file, new_folder
from causvid.staging import only_process, staging

HOLD = "import sys, pathlib; from causvid.staging import only_process\nwith only_process(pathlib.Path(sys.argv[1])):\n"


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD + "    print('held', flush=True); input()", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="is in use by another run"), only_process(tmp_path):
            pass
        other.kill()
    with only_process(tmp_path):  # a killed process has nothing
        pass


def test_a_folder_that_stayed_empty_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a mistake"), only_process(tmp_path / "runs" / "new"):
        raise ValueError("a mistake")
    assert not (tmp_path / "runs" / "new").exists()


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_what_a_kill_left_is_removed_by_the_next_that_writes(tmp_path: Path, make: object) -> None:
    script = (
        "import os, sys, pathlib; from causvid.staging import staging\n"
        "with staging(pathlib.Path(sys.argv[1])) as place:\n"
        "    (place / 'half').write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with staging(tmp_path) as mine, (new_file if make is new_file else new_folder)(tmp_path / "a") as place:
        assert mine.exists()
        if make is new_file:
            place.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_was_killed_between_old_and_new_is_kept(tmp_path: Path) -> None:
    for part in ("old", "new"):
        (tmp_path / ".causvid-x.partial" / part).mkdir(parents=True)
    with staging(tmp_path):
        pass
    assert (tmp_path / ".causvid-x.partial" / "old").exists()


def test_a_full_disk_is_one_line_whatever_is_written(tmp_path: Path) -> None:
    script = (
        "import resource, sys, pathlib, torch; from causvid.files.writing import new_file, write_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); place = pathlib.Path(sys.argv[1])\n"
        "def save():\n    with new_file(place / 'a.pt') as new: torch.save({'a': torch.zeros(10**5)}, new)\n"
        "def text():\n    with new_file(place / 'a.txt') as new: new.write_text('a' * 10**5)\n"
        "def tensors(): write_tensors(place / 'a.safetensors', {'a': torch.zeros(10**5)}, {})\n"
        "for write in (save, text, tensors):\n"
        "    try: write()\n"
        "    except OSError as error: print(str(error).count('\\n'), 'cannot be written' in str(error))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "0 True\n" * 3, done.stderr
    assert not list(tmp_path.iterdir())
