"""Videos of any kind become a set; what cannot be used is left out with its reason; killed, it goes on the same."""

import csv
import errno
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from causvid import cli
from causvid.data import prepare as module
from causvid.data.captions import Captions
from causvid.data.plan import Rules, bucket_sizes, nearest_size
from causvid.data.prepare import Prepared, find_sources, prepare
from causvid.data.set_models import SetModels
from causvid.data.video_set import VideoSet
from causvid.loading.spec import ModelSpec
from causvid.media import VideoWriter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(toy_bundle: Path) -> SetModels:
    return SetModels.load(ModelSpec(model=str(toy_bundle)), CPU)


def video(path: Path, seed: int, *, size: tuple[int, int] = (40, 60), fps: float = 8, frames: int = 15) -> np.ndarray:
    """Write a bright square that moves over a pattern of its own; return the frames."""
    h, w = size
    pattern = np.random.default_rng(seed).integers(20, 235, (4, 5, 3)).repeat(-(-h // 4), 0).repeat(-(-w // 5), 1)
    clip = np.stack([pattern[:h, :w]] * frames).astype(np.uint8)
    for n, frame in enumerate(clip):
        left = int(n / fps * w / 3) % (w - w // 4)
        frame[h // 4 : h // 2, left : left + w // 4] = 255 - frame[0, 0]
    write(path, clip, fps)
    return clip


def write(path: Path, clip: np.ndarray, fps: float = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=fps, height=clip.shape[1], width=clip.shape[2]) as writer:
        writer.write(clip)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Clips of odd sizes and rates, and some that cannot be used."""
    folder = tmp_path / "clips"
    video(folder / "a.mp4", 1, size=(50, 74), fps=12, frames=22)
    video(folder / "b.mkv", 2, size=(90, 40), fps=25, frames=45)
    scenes = [video(folder / f"scene{n}.mp4", n) for n in (3, 4)]
    write(folder / "cut.mp4", np.concatenate(scenes))
    (folder / "scene3.mp4").rename(folder / "d.mp4")  # seen before, in cut.mp4
    (folder / "scene4.mp4").unlink()
    write(folder / "e_still.mp4", np.full((15, 40, 60, 3), 128, np.uint8))
    write(folder / "f_black.mp4", np.zeros((15, 40, 60, 3), np.uint8))
    video(folder / "g_short.mp4", 5, frames=6)
    (folder / "h_broken.mp4").write_bytes(b"this is no video")
    (folder / "i_empty.mp4").write_bytes(b"")
    video(folder / "j_wordy.mp4", 6)
    (folder / "j_wordy.txt").write_text("a red swan over the snow " * 30)
    return folder


def run(places: Path, out: Path, models: SetModels, **rules: object) -> Prepared:
    stage = lambda name: lambda done, of: None  # noqa: E731
    texts = Captions(template="a red {name}")
    return prepare([places], out, models, captions=texts, rules=Rules.make(**rules), workers=1, stage=stage)


def shards(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("*.tar"))}


def test_clips_are_cut_filtered_captioned_and_encoded(clips: Path, tmp_path: Path, models: SetModels) -> None:
    done = run(clips, tmp_path / "set", models)
    with (tmp_path / "set" / "left_out.csv").open(newline="") as file:
        left_out = {Path(row["source"]).name: row["reason"] for row in csv.DictReader(file)}
    assert left_out == {
        "d.mp4": "duplicate",
        "e_still.mp4": "still",
        "f_black.mp4": "black",
        "g_short.mp4": "too short",
        "h_broken.mp4": "unreadable",
        "i_empty.mp4": "unreadable",
        "j_wordy.mp4": "caption",
    }
    assert done.samples == 4 and done.left_out == {
        "black": 1, "caption": 1, "duplicate": 1, "still": 1, "too short": 1, "unreadable": 2,
    }  # fmt: skip
    data = VideoSet.open(tmp_path / "set", models.generation, size=(4, 4, 6), device=CPU)
    assert list(data.captions) == ["a red a", "a red b", "a red cut"]  # the two scenes of cut.mp4 share one
    batch = data.batch(2, frames=4, generator=torch.Generator().manual_seed(0))
    assert batch.latents.shape == (2, 4, 4, 4, 6) and batch.latents.isfinite().all()
    with tarfile.open(tmp_path / "set" / "shard_000000.tar") as tar:
        names = tar.getnames()
    assert names[:5] == [f"00000000.{end}" for end in ("latents.npy", "text.npy", "txt", "json", "jpg")]
    report = (tmp_path / "set" / "report.md").read_text()
    assert "4 clips of 3 sources" in report and (tmp_path / "set" / "contact_sheet.png").is_file()


def test_a_set_among_its_videos_is_no_source_and_unknown_words_are_noted(
    clips: Path, tmp_path: Path, models: SetModels
) -> None:
    folder = tmp_path / "all"
    shutil.copytree(clips, folder)
    done = run(folder, folder / "set", models)
    first = shards(folder / "set")
    assert run(folder, folder / "set", models) == done and shards(folder / "set") == first
    assert done.unknown == models.text.unknown_words("a red a, a red b, a red cut") != []


def test_latents_are_those_of_the_decoded_clip(tmp_path: Path, models: SetModels) -> None:
    from causvid.media import read_video

    video(tmp_path / "clips" / "a.mkv", 1, size=(32, 48), frames=28)
    run(tmp_path / "clips", tmp_path / "set", models)
    g = models.generation
    frames = list(read_video(tmp_path / "clips" / "a.mkv", height=g.height, width=g.width, fps=g.fps))
    data = VideoSet.open(tmp_path / "set", g, size=(4, 4, 6), device=CPU)
    assert len(data.samples) == 2
    for n, sample in enumerate(data.samples):
        assert sample.latents is not None
        found = sample.latents.array(sample.crc[0])
        np.testing.assert_array_equal(found, models.encode(np.stack(frames[13 * n : 13 * n + 13])))


def test_buckets_keep_the_aspect_ratio(clips: Path, tmp_path: Path, models: SetModels) -> None:
    sizes = bucket_sizes(480, 832, 16)
    assert all(rows % 16 == columns % 16 == 0 and 0.9 < rows * columns / 480 / 832 < 1.1 for rows, columns in sizes)
    assert nearest_size(1080, 1920, sizes)[1] > nearest_size(1920, 1080, sizes)[1]
    run(clips, tmp_path / "set", models, buckets=True)
    data = VideoSet.open(tmp_path / "set", models.generation, size=(4, 4, 6), device=CPU)
    shapes = {sample.size[1:] for sample in data.samples}
    assert len(shapes) == 2 and any(rows > columns for rows, columns in shapes)


class Killed(BaseException):
    """What no code catches."""


def test_an_interrupted_run_goes_on_and_ends_the_same(
    clips: Path, tmp_path: Path, models: SetModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 2)
    run(clips, tmp_path / "whole", models)
    made: list[int] = []
    original = SetModels.encode
    for left in (0, 3):
        with monkeypatch.context() as patch:

            def encode(self: SetModels, frames: np.ndarray, left: int = left) -> np.ndarray:
                if len(made) == left:
                    raise Killed
                made.append(1)
                return original(self, frames)

            patch.setattr(SetModels, "encode", encode)
            with pytest.raises(Killed):
                run(clips, tmp_path / "broken", models)
        assert not (tmp_path / "broken" / "manifest.json").exists()
    first = (tmp_path / "broken" / "shard_000000.tar").stat().st_mtime_ns
    run(clips, tmp_path / "broken", models)
    assert shards(tmp_path / "whole") == shards(tmp_path / "broken") and len(shards(tmp_path / "whole")) == 2
    assert (tmp_path / "broken" / "shard_000000.tar").stat().st_mtime_ns == first
    for file in ("manifest.json", "left_out.csv", "contact_sheet.png"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes(), file


def test_a_full_disk_is_one_line_and_keeps_what_was_made(
    clips: Path, tmp_path: Path, models: SetModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(OSError, match=r"shard_000000.tar cannot be written: no space left"):
            run(clips, tmp_path / "set", models)
    left = {file.name for file in (tmp_path / "set").iterdir()}
    assert left == {".work", ".lock"}
    assert run(clips, tmp_path / "set", models).samples == 4


def test_hostile_names_and_files_that_change_are_a_line_each(tmp_path: Path, models: SetModels, monkeypatch) -> None:
    clips = tmp_path / "clips"
    names = ["ünïcode 天鵝.mp4", "-rf.mp4", "{name}.mp4", "a\nb.mp4", "%s.mp4", "with,comma.mp4", "growing.mp4"]
    for seed, name in enumerate(names):
        video(tmp_path / "t.mp4", seed)
        (clips).mkdir(exist_ok=True)
        (tmp_path / "t.mp4").rename(clips / name)
    os.link(clips / "-rf.mp4", os.fsencode(clips) + b"/\xff.mp4")
    (clips / "loop").symlink_to(".")
    (clips / "nothing.mp4").symlink_to("gone.mp4")
    os.mkfifo(clips / "pipe.mp4")
    original = module.look_at_all

    def look(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        with (clips / "growing.mp4").open("ab") as file:
            file.write(b"more")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "look_at_all", look)
        assert run(clips, tmp_path / "set", models).samples == 6
    left_out = list(csv.DictReader((tmp_path / "set" / "left_out.csv").open(newline="")))
    details = {row["source"].rpartition("/")[2]: row["detail"] for row in left_out}
    assert set(details) == {"growing.mp4", r"\udcff.mp4"} and "is not text in UTF-8" in details[r"\udcff.mp4"]
    assert details["growing.mp4"] == "it changed while it was read"
    assert run(clips, tmp_path / "set", models).samples == 7


def test_what_could_not_be_read_once_is_read_again(tmp_path: Path, models: SetModels) -> None:
    for seed in (1, 2):
        video(tmp_path / "clips" / f"{seed}.mp4", seed)
    file = tmp_path / "clips" / "2.mp4"
    whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"x" * len(whole))
    os.utime(file, ns=times)
    assert run(tmp_path / "clips", tmp_path / "set", models).left_out == {"unreadable": 1}
    file.write_bytes(whole)
    os.utime(file, ns=times)
    assert run(tmp_path / "clips", tmp_path / "set", models).samples == 2


def test_lists_of_prompts_are_sets_without_latents(tmp_path: Path, models: SetModels) -> None:
    (tmp_path / "prompts.txt").write_text("a red swan\n\na blue mammoth\n")
    assert run(tmp_path / "prompts.txt", tmp_path / "set", models).samples == 2
    with pytest.raises(ValueError, match="has prompts without latents, and this stage needs latents"):
        VideoSet.open(tmp_path / "set", models.generation, size=(4, 4, 6), device=CPU)
    data = VideoSet.open(tmp_path / "set", models.generation, size=(4, 4, 6), device=CPU, real=False)
    batch = data.batch(3, frames=4, generator=torch.Generator().manual_seed(0))
    assert list(data.captions) == ["a red swan", "a blue mammoth"] and batch.latents.shape == (3, 4, 4, 4, 6)


@pytest.mark.parametrize("states", [0, 3], ids=["latents", "trajectories"])
def test_lmdbs_of_the_published_layout_are_read(tmp_path: Path, models: SetModels, states: int) -> None:
    lmdb = pytest.importorskip("lmdb")
    shape = (2, *((states,) if states else ()), 4, 4, 4, 6)
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    with lmdb.open(str(tmp_path / "mixkit"), map_size=2**24) as environment, environment.begin(write=True) as writer:
        writer.put(b"latents_shape", " ".join(map(str, shape)).encode())
        for n, row in enumerate(rows):
            writer.put(f"latents_{n}_data".encode(), row.tobytes())
            writer.put(f"prompts_{n}_data".encode(), f"a swan {n}".encode())
    assert run(tmp_path / "mixkit", tmp_path / "set", models).samples == 2
    data = VideoSet.open(tmp_path / "set", models.generation, size=(4, 4, 6), device=CPU)
    assert list(data.captions) == ["a swan 0", "a swan 1"]
    for sample, row in zip(data.samples, rows, strict=True):
        assert sample.latents is not None
        np.testing.assert_array_equal(sample.latents.array(sample.crc[0]), row[-1] if states else row)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("absent --out set", "absent does not exist"),
        ("bare --out set", "no videos in there"),
        ("bare --out set --still 2", "still=2"),
        ("bare --out set --captions t.xls", "captions=t.xls: expected a .csv or .parquet file"),
        ("bare --out set --caption {place}", "expected words, with {name} or {folder}"),
        ("a.mp4 --out other", "out=other is not empty and no set"),
        ("a.mp4 --out a.mp4", "out=a.mp4 is a file"),
    ],
)
def test_mistakes_are_one_line(arguments: str, line: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("bare", "other"):
        Path(folder).mkdir()
    Path("other/mine.txt").write_text("mine")
    Path("a.mp4").write_bytes(b"no")
    with pytest.raises(SystemExit) as end:
        cli.main(["data", "prepare", *arguments.split()])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and line in error
    assert not Path("set").exists() and [file.name for file in Path("other").iterdir()] == ["mine.txt"]


def test_files_beside_videos_are_no_videos(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/c.webm", "b.txt", "b.json", ".hidden.mp4", "t.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_sources([tmp_path, tmp_path / "b.mp4"]) == [tmp_path / "a" / "c.webm", tmp_path / "b.mp4"]


def test_a_folder_that_must_not_be_read_is_reported(tmp_path: Path, models: SetModels, monkeypatch) -> None:
    video(tmp_path / "clips" / "a.mp4", 1)
    (tmp_path / "clips" / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")  # for root, all are open
    assert run(tmp_path / "clips", tmp_path / "set", models).left_out == {"unreadable": 1}
    assert "clips/closed,0,unreadable,no permission to read" in (tmp_path / "set" / "left_out.csv").read_text()


DEADLY = """
import os, signal, sys

def within(name):
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("c_deadly.mp4") and within("{function}"):
        os.kill(os.getpid(), signal.SIG{signal})

sys.addaudithook(watch)
"""


@pytest.mark.parametrize(("function", "name"), [("look_at_start", "SEGV"), ("decode", "KILL")])
def test_a_video_that_ends_its_process_is_left_out_alone(
    function: str, name: str, tmp_path: Path, models: SetModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 2)
    for n, letter in enumerate("ad"):
        video(tmp_path / "clips" / f"{letter}.mkv", n, frames=28)
    run(tmp_path / "clips", tmp_path / "without", models, duplicate=-1)
    video(tmp_path / "clips" / "c_deadly.mp4", 9, frames=28)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY.format(function=function, signal=name))
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
        assert run(tmp_path / "clips", tmp_path / "set", models, duplicate=-1).left_out == {"process died": 1}
    assert shards(tmp_path / "set") == shards(tmp_path / "without") and len(shards(tmp_path / "set")) == 2
    (row,) = csv.DictReader((tmp_path / "set" / "left_out.csv").open(newline=""))
    assert row["source"].endswith("c_deadly.mp4") and row["detail"].startswith("the process that read it died")
    assert run(tmp_path / "clips", tmp_path / "set", models, duplicate=-1).samples == 6


def test_shards_are_read_by_webdataset(clips: Path, tmp_path: Path, models: SetModels, monkeypatch) -> None:
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setattr(module, "SHARD", 3)
    run(clips, tmp_path / "set", models)
    data = VideoSet.open(tmp_path / "set", models.generation, size=(4, 4, 6), device=CPU)
    files = [str(tmp_path / "set" / shard.file) for shard in data.manifest.shards]
    found = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"))
    assert [row["__key__"] for row in found] == [f"{n:08d}" for n in range(4)]
    counts = [sum(row["__url__"] == file for row in found) for file in files]
    assert counts == [shard.samples for shard in data.manifest.shards] == [3, 1]
    for row, sample in zip(found, data.samples, strict=True):
        ends = [end for end in row if not end.startswith("__")]
        assert ends == ["latents.npy", "text.npy", "txt", "json", "jpg"]
        assert sample.latents is not None and row["txt"] == data.captions[sample.caption]
        np.testing.assert_array_equal(row["latents.npy"], sample.latents.array(sample.crc[0]))
        np.testing.assert_array_equal(row["text.npy"], sample.text.array(sample.crc[1]))
        assert row["json"]["size"] == list(sample.size) and row["jpg"].shape[2] == 3
