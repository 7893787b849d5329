"""A folder of videos whose command is killed at random moments ends as one that was left alone."""

from pathlib import Path

import pytest

PROMPTS = 12


@pytest.mark.slow
def test_a_killed_command_ends_with_the_same_folder(toy_bundle: Path, tmp_path: Path) -> None:
    import killed

    options = ["--model", str(toy_bundle), "--prompts", str(PROMPTS), "--seeds", "2", "--device", "cpu"]
    found = killed.compare(tmp_path, options, videos=2 * PROMPTS, seed=1)
    assert len(found) == 2 * PROMPTS + 1 and "manifest.json" in found


def test_a_failing_command_is_no_kill(tmp_path: Path) -> None:
    import killed

    with pytest.raises(RuntimeError, match="seeds"):
        killed.make(tmp_path / "videos", ["--seeds", "0"])
