"""Videos come out whole, at their rate and in their colours, or not at all."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from causvid.media import VideoWriter, read_video
from causvid.media import writer as writer_module
from causvid.staging import check_target


def clip(frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A bar that moves over a smooth ground: uint8 [T, H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    ground = np.stack([0.2 + 0.5 * x, 0.4 + 0.3 * y, 0.6 - 0.4 * x], axis=-1)
    video = np.repeat(ground[None], frames, axis=0)
    for t in range(frames):
        video[t, :, t * width // frames : t * width // frames + 4] = 0.9
    return (255 * video).astype(np.uint8)


def read(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)]), float(stream.average_rate)


def write(path: Path, frames: np.ndarray, fps: float = 12, scale: int = 1) -> None:
    _, height, width, _ = frames.shape
    with VideoWriter(path, fps=fps, height=height, width=width, scale=scale) as writer:
        for chunk in np.array_split(frames, 3):
            writer.write(chunk)


@pytest.mark.parametrize("fps", [8, 16, 23.976])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str, fps: float) -> None:
    frames = clip(13)
    write(tmp_path / f"a{suffix}", frames, fps)
    back, rate = read(tmp_path / f"a{suffix}")
    assert back.shape == frames.shape
    assert rate == pytest.approx(fps, rel=1e-3)
    assert np.abs(back.astype(int) - frames).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize(("height", "width", "scale"), [(63, 95, 1), (33, 47, 3), (64, 96, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_sizes_and_enlargement(tmp_path: Path, suffix: str, height: int, width: int, scale: int) -> None:
    write(tmp_path / f"a{suffix}", clip(5, height, width), scale=scale)
    back, _ = read(tmp_path / f"a{suffix}")
    assert back.shape == (5, -(-height * scale // 2) * 2, -(-width * scale // 2) * 2, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png"])
def test_the_same_frames_make_the_same_file(tmp_path: Path, suffix: str) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / f"a{suffix}", clip(5))
    for one in (tmp_path / "one").iterdir():
        assert one.read_bytes() == (tmp_path / "two" / one.name).read_bytes()


def test_gif_keeps_its_rate_in_the_mean(tmp_path: Path) -> None:
    write(tmp_path / "a.gif", clip(24), fps=12)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 24
        durations = []
        for i in range(24):
            image.seek(i)
            durations.append(image.info["duration"])
    assert sum(durations) == 2000
    assert set(durations) == {80, 90}


@pytest.mark.parametrize(("name", "first"), [("a.png", "a-00000.png"), ("frames", "frames/00000.png")])
def test_png_frames_are_exact_and_numbered(tmp_path: Path, name: str, first: str) -> None:
    frames = clip(4)
    write(tmp_path / name, frames)
    files = sorted((tmp_path / first).parent.iterdir())
    assert files[0] == tmp_path / first
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), frames)


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path: Path) -> None:
    folder = tmp_path / "frames.d"
    folder.mkdir()
    write(folder, clip(2))
    with pytest.raises(FileExistsError, match="not empty"):
        check_target(folder)
    write(tmp_path / "a.png", clip(2))
    with pytest.raises(FileExistsError, match="exist already"):
        check_target(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.png", "a"])
def test_nothing_bears_the_final_name_before_the_end(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, fps=12, height=64, width=96) as writer:
        writer.write(clip(3))
        assert all(path.name.endswith(".partial") for path in tmp_path.iterdir())
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_an_error_leaves_nothing_and_an_older_file_alone(tmp_path: Path, name: str) -> None:
    if name != "a":
        (tmp_path / name).write_text("older")
    before = [path.name for path in tmp_path.iterdir()]
    with (
        pytest.raises(RuntimeError, match="the model"),
        VideoWriter(tmp_path / name, fps=12, height=64, width=96) as writer,
    ):
        writer.write(clip(3))
        raise RuntimeError("the model failed")
    assert [path.name for path in tmp_path.iterdir()] == before
    assert name == "a" or (tmp_path / name).read_text() == "older"


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_an_interrupt_keeps_what_was_finished(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / f"a{suffix}", fps=12, height=64, width=96) as writer:
        writer.write(clip(5))
        raise KeyboardInterrupt
    assert len(read(tmp_path / f"a{suffix}")[0]) == 5


def test_an_interrupt_within_a_frame_keeps_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = writer_module._Gif.add

    def interrupted(self: writer_module._Gif, image: Image.Image) -> None:
        if len(self._images) == 3:
            raise KeyboardInterrupt
        add(self, image)

    monkeypatch.setattr(writer_module._Gif, "add", interrupted)
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.gif", fps=12, height=64, width=96) as writer:
        writer.write(clip(5))
    assert len(read(tmp_path / "a.gif")[0]) == 3


def test_an_interrupt_before_the_first_frame_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", fps=12, height=64, width=96):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["add", "finish"])
@pytest.mark.parametrize(("name", "kind"), [("a.mp4", "Encoder"), ("a.gif", "_Gif"), ("a", "_FrameFiles")])
def test_a_full_disk_is_one_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, when: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "elsewhere")

    monkeypatch.setattr(f"causvid.media.writer.{kind}.{when}", full)
    with (
        pytest.raises(OSError, match="no space left") as caught,
        VideoWriter(tmp_path / name, fps=12, height=64, width=96) as writer,
    ):
        writer.write(clip(3))
    assert caught.value.strerror == f"cannot write {tmp_path / name}: no space left"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_encoder_reports_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "touch", lambda self: self.symlink_to("/dev/full"))
    writer = VideoWriter(tmp_path / "a.mp4", fps=12, height=64, width=96)
    with pytest.raises(OSError, match="no space left"), writer:
        writer.write(clip(60))
    assert not list(tmp_path.iterdir())


def test_where_a_video_cannot_go_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"unknown suffix '\.avi'.*\.mp4, \.webm, \.mkv, \.gif, \.png"):
        check_target(tmp_path / "a.avi")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_target(tmp_path / "missing" / "a.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(FileExistsError, match="is a folder"):
        check_target(tmp_path / "folder.mp4")
    (tmp_path / "plain").touch()
    with pytest.raises(FileExistsError, match="without a suffix"):
        check_target(tmp_path / "plain")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="no permission"):
        check_target(tmp_path / "a.mp4")


def test_wrong_frames_and_none_are_refused(tmp_path: Path) -> None:
    for wrong in (clip(2).astype(np.float32), clip(2, 32, 96), clip(2)[0]):
        with (
            pytest.raises(ValueError, match=r"expected uint8 \[T, 64, 96, 3\]"),
            VideoWriter(tmp_path / "a.mp4", fps=12, height=64, width=96) as writer,
        ):
            writer.write(wrong)
    with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "a.mp4", fps=12, height=64, width=96):
        pass
    with pytest.raises(ValueError, match="fps=0 is not positive"):
        VideoWriter(tmp_path / "a.mp4", fps=0, height=64, width=96)
    assert not list(tmp_path.iterdir())


def test_mkv_is_lossless_at_any_size(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(256, size=(5, 17, 31, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "a.mkv", fps=12, height=17, width=31) as writer:
        writer.write(frames)
    assert np.array_equal(list(read_video(tmp_path / "a.mkv", fps=12, height=17, width=31)), frames)


def flat(colours: list[tuple[int, int, int]], height: int, width: int) -> np.ndarray:
    return np.stack([np.broadcast_to(np.uint8(colour), (height, width, 3)) for colour in colours])


@pytest.mark.parametrize(("height", "matrix"), [(480, 6), (718, 6), (720, 1), (722, 1)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_colours_are_tagged_and_come_back(tmp_path: Path, suffix: str, height: int, matrix: int) -> None:
    colours = [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (40, 90, 160)]
    frames = flat(colours, height, 64)
    write(tmp_path / f"a{suffix}", frames)
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        context = container.streams.video[0].codec_context
        assert {context.colorspace, context.color_primaries, context.color_trc} == {matrix} and context.color_range == 1
    back, _ = read(tmp_path / f"a{suffix}")
    assert np.abs(back.astype(int) - frames).mean(axis=(1, 2)).max() <= 2


def test_the_index_of_an_mp4_is_in_front(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", clip(13))
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_a_file_object_gets_frames_as_they_arrive() -> None:
    class Pipe(io.RawIOBase):
        """A connection: what was written is gone."""

        def __init__(self) -> None:
            self.sent = b""

        def write(self, part: bytes) -> int:
            self.sent += bytes(part)
            return len(part)

    frames, pipe = clip(24), Pipe()
    with VideoWriter(pipe, fps=12, height=64, width=96) as writer:
        for done, part in enumerate(np.array_split(frames, 4), start=1):
            writer.write(part)
            with av.open(io.BytesIO(pipe.sent)) as container:
                assert sum(1 for _ in container.decode(video=0)) >= 6 * done - 1
    with av.open(io.BytesIO(pipe.sent)) as container:
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(back.astype(int) - frames).mean() < 4 and len(back) == 24


@pytest.mark.parametrize("name", ["a:b.mp4", "http:a.webm", "x[1].mkv", "pipe:1.mp4", "%d.mp4", "-i.mp4", "é 好.mp4"])
def test_any_name_a_file_can_have_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name), clip(3))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with av.open(str(tmp_path / name)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow Unicode alone")
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png", ""])
def test_a_name_that_is_not_unicode_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe folder") / os.fsdecode(b"\xff" + suffix.encode())
    path.parent.mkdir()
    write(path, clip(3))
    assert len(list(path.parent.iterdir())) == (3 if suffix == ".png" else 1)


@pytest.mark.parametrize("name", ["x[1].png", "x*.png", "x?.png", "[!a].png"])
def test_frames_of_a_name_with_signs_of_a_pattern_are_not_overwritten(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, clip(2))
    with pytest.raises(FileExistsError, match="exist already"):
        check_target(tmp_path / name)
    check_target(tmp_path / "x1.png")


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 300 + ".mp4", "a" * 248 + ".png", "é" * 130 + ".gif", "b" * 300])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"has no name of a file|expected at most 255"):
        check_target(name)


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    write(tmp_path / ("a" * 251 + ".mp4"), clip(2))
    write(tmp_path / ("b" * 245 + ".png"), clip(2))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png", ""])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"link{suffix}").symlink_to("nothing")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"folder{suffix}" / "a").touch()
    for name, line in (("pipe", "is a pipe"), ("link", "link to nothing"), ("folder", "is a folder|not empty")):
        with pytest.raises(OSError, match=line):
            check_target(tmp_path / f"{name}{suffix}")


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real.mp4").touch()
    (tmp_path / "a.mp4").symlink_to("disk/real.mp4")
    write(tmp_path / "a.mp4", clip(3))
    assert (tmp_path / "a.mp4").is_symlink() and (tmp_path / "disk" / "real.mp4").stat().st_size


@pytest.mark.parametrize("size", [{"height": 64, "width": 2000, "scale": 16}, {"height": 20_000, "width": 8}])
def test_a_picture_that_no_codec_takes_is_refused(tmp_path: Path, size: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at most 16384 a side"):
        VideoWriter(tmp_path / "a.mp4", fps=12, **size)


def test_no_error_of_the_library_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise av.error.ExternalError(1, "Generic error in an external library")

    monkeypatch.setattr("causvid.media.encoder.Encoder.add", fail)
    with (
        pytest.raises(OSError, match=r"cannot write .*a\.mp4: Generic error"),
        VideoWriter(tmp_path / "a.mp4", fps=12, height=64, width=96) as writer,
    ):
        writer.write(clip(1))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_makes_is_not(tmp_path: Path) -> None:
    (tmp_path / ".causvid-others").mkdir()
    script = (
        "import os, sys; from causvid.media import VideoWriter; import numpy as np\n"
        "with VideoWriter(sys.argv[1], fps=12, height=64, width=96) as w:\n"
        "    w.write(np.zeros((2, 64, 96, 3), np.uint8)); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.mp4")], check=False)
    (left,) = tmp_path.glob("*.partial")
    with VideoWriter(tmp_path / "b.mp4", fps=12, height=64, width=96) as writer:
        assert not left.exists()
        writer.write(clip(2))
        write(tmp_path / "c.mp4", clip(2))
    assert {path.name for path in tmp_path.iterdir()} == {"b.mp4", "c.mp4", ".causvid-others"}
