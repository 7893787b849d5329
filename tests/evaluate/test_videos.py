"""Videos are made into a folder that holds exactly what the pipeline makes, however often it was interrupted."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from causvid.evaluate import videos
from causvid.evaluate.videos import MANIFEST, Manifest, Prompt, make_videos, read_prompts, read_videos
from causvid.pipeline import Pipeline

ASKED = [Prompt(text=text) for text in ("a red swan", "a blue mammoth", "a swan over the snow")]


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.iterdir() if file.name != MANIFEST)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("maker", ["student", "teacher"])
def test_a_folder_holds_what_the_pipeline_makes(small: Pipeline, tmp_path: Path, maker: Any) -> None:
    done: list[tuple[int, int]] = []
    options: Any = {"maker": maker, "seeds": 2, "seed": 5, "batch": 4, "progress": lambda *one: done.append(one)}
    manifest = make_videos(small, ASKED, tmp_path / "new", **options)
    assert done == [(4, 6), (6, 6)] and manifest == Manifest.load(tmp_path / "new")
    assert [(video.prompt.text[:6], video.seed) for video in manifest.videos[2:5]] == [
        ("a swan", 7), ("a red ", 8), ("a blue", 9),
    ]  # fmt: skip
    batches = list(read_videos(tmp_path / "new", manifest, batch=4))
    assert [len(batch) for batch in batches] == [4, 2]
    texts = [prompt.text for prompt in manifest.prompts]
    made = videos.make_batch(small, maker, texts[:4], range(5, 9), seconds=manifest.seconds)
    assert torch.equal(batches[0], made)


def test_an_interrupted_folder_ends_the_same(small: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_videos(small, ASKED, tmp_path / "whole", seconds=1.0, seeds=2, batch=2)
    for stop in (3, 2, 4):  # files written before an interrupt

        def interrupted(*arguments: Any, stop: int = stop, write: Any = videos._write, **fps: Any) -> None:
            if len(list((tmp_path / "part").glob("[0-9]*"))) >= stop:
                raise KeyboardInterrupt
            write(*arguments, **fps)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(videos, "_write", interrupted)
            make_videos(small, ASKED, tmp_path / "part", seconds=1.0, seeds=2, batch=2)
    (tmp_path / "part" / ".causvid-killed.partial").mkdir()
    before = {file: os.stat(file).st_mtime_ns for file in (tmp_path / "part").glob("0000[01]-0.mkv")}
    make_videos(small, ASKED, tmp_path / "part", seconds=1.0, seeds=2, batch=2)
    assert digests(tmp_path / "part") == digests(tmp_path / "whole")
    assert {file: os.stat(file).st_mtime_ns for file in before} == before


def test_shards_make_one_folder_in_vbench_naming(small: Pipeline, tmp_path: Path) -> None:
    options: Any = {"seconds": 1.0, "seeds": 2, "batch": 2, "vbench": True}
    make_videos(small, ASKED, tmp_path / "whole", **options)
    assert "a red swan-0.mp4" in digests(tmp_path / "whole") and len(digests(tmp_path / "whole")) == 6
    for shard in ((1, 2), (0, 2)):
        make_videos(small, ASKED, tmp_path / "shards", shard=shard, **options)
    assert digests(tmp_path / "shards") == digests(tmp_path / "whole")
    for text in ("a/b", "a" * 300):
        with pytest.raises(ValueError, match="is no file name"):
            make_videos(small, [Prompt(text=text)], tmp_path / "new", **options)
    with pytest.raises(ValueError, match="expected each once"):
        make_videos(small, ASKED[:1] * 2, tmp_path / "new", **options)
    with pytest.raises(ValueError, match="shard=2/2"):
        make_videos(small, ASKED, tmp_path / "new", shard=(2, 2), **options)
    assert not (tmp_path / "new").exists()


def test_a_folder_of_another_request_is_refused(
    small: Pipeline, small_wan: Pipeline, make: Any, tmp_path: Path
) -> None:
    make_videos(small, ASKED, tmp_path, seconds=1.0)
    with pytest.raises(ValueError, match="another request: seconds=1"):
        make_videos(small, ASKED, tmp_path, seconds=2.0)
    with pytest.raises(ValueError, match="another request: prompts or seeds"):
        make_videos(small, ASKED, tmp_path, seconds=1.0, seed=1)
    with pytest.raises(ValueError, match="another request: model"):
        make_videos(small_wan, ASKED, tmp_path, seconds=1.0)
    with pytest.raises(ValueError, match="another request: generation"):
        make_videos(make(shift=2.0), ASKED, tmp_path, seconds=1.0)
    (tmp_path / "00001-0.mkv").unlink()
    with pytest.raises(ValueError, match=r"00001-0\.mkv is missing"):
        list(read_videos(tmp_path, Manifest.load(tmp_path)))
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(ValueError, match="not empty"):
        make_videos(small, ASKED, tmp_path, seconds=1.0)
    with pytest.raises(ValueError, match="has no manifest"):
        Manifest.load(tmp_path)


def test_prompts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a swan\n\n  a cat \n")
    assert [prompt.text for prompt in read_prompts(file)] == ["a swan", "a cat"]
    file.write_text("\n")
    with pytest.raises(ValueError, match="found none"):
        read_prompts(file)


def test_a_table_says_what_its_prompts_ask_for(tmp_path: Path) -> None:
    file = tmp_path / "prompts.tsv"
    file.write_text("prompt\tsubject\tplace\nSwans, on a pond\tswan\tlake\na cat\tcat\t-\n")
    swans, cat = read_prompts(file)
    assert swans == Prompt(text="Swans, on a pond", labels={"subject": "swan", "place": "lake"})
    assert cat.labels == {"subject": "cat", "place": None}
    for text in ("\n", "prompt\tsubject\n", "text\na swan\n", "prompt\tsubject\na swan\n", "prompt\tsubject\n\tswan\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="expected a line of `prompt`"):
            read_prompts(file)


def test_prompts_are_read_from_published_lists(tmp_path: Path) -> None:
    file = tmp_path / "VBench_full_info.json"
    file.write_text(
        '[{"prompt_en": "a swan", "dimension": ["color"]}, {"prompt_en": "a swan"}, {"prompt": "a cat"}, "x"]'
    )
    assert [prompt.text for prompt in read_prompts(file)] == ["a swan", "a cat", "x"]
    for text in ("{}", "[1]", "[", '[{"name": "a"}]'):
        file.write_text(text)
        with pytest.raises(ValueError, match="expected a list of prompts"):
            read_prompts(file)
