"""A folder whose command is killed at random moments ends as one that was left alone."""

from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("evaluate videos -o OUT --prompts 12 --seeds 2", 25),
        ("data prepare CLIPS --out OUT --workers 2", 9 + 2 + 5),  # what videos look like, a shard, reports, the lock
    ],
)
def test_a_killed_command_ends_with_the_same_folder(command: str, files: int, toy_bundle: Path, tmp_path: Path) -> None:
    import killed
    import own_videos

    own_videos.make_clips(tmp_path / "clips", 8)
    words = command.replace("CLIPS", str(tmp_path / "clips")).split()
    found = killed.compare(tmp_path, [*words, "--model", str(toy_bundle), "--device", "cpu"], kills=3, seed=1)
    assert found == files


def test_a_failing_command_is_no_kill(tmp_path: Path) -> None:
    import killed

    with pytest.raises(RuntimeError, match="seeds"):
        killed.make(["evaluate", "videos", "-o", "OUT", "--seeds", "0"], tmp_path / "videos")


def test_half_a_file_is_seen(tmp_path: Path) -> None:
    import killed

    for folder, text in (("found", "ha"), ("wanted", "half")):
        (tmp_path / folder / ".causvid-x.partial").mkdir(parents=True)
        (tmp_path / folder / ".causvid-x.partial" / "new").write_text(text)
    (tmp_path / "wanted" / "more").write_text("more")
    assert killed.check(tmp_path / "found", tmp_path / "wanted", end=False) == 0
    (tmp_path / "found" / "more").write_text("mo")
    with pytest.raises(RuntimeError, match="1 of 1 files differ, more first"):
        killed.check(tmp_path / "found", tmp_path / "wanted", end=False)
