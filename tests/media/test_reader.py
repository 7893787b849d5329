"""Any video becomes frames of the size and rate asked for; what is none is refused in one line."""

import gc
import os
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from causvid.media import Probe, VideoWriter, image, probe, read_video
from causvid.media.clip import Clip

HEIGHT, WIDTH = 32, 48
KINDS = ("a.mp4", "a.webm", "a.gif", "a.mov", "a.mkv", "a.avi", "a.ts", "a.h264")


def shades(frames: int, height: int = HEIGHT, width: int = WIDTH, step: int = 8) -> np.ndarray:
    """Frames that grow brighter by `step`, with a red quarter at the top left: uint8 [T, H, W, 3]."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video += (np.arange(frames) * step).astype(np.uint8)[:, None, None, None]
    video[:, : height // 2, : width // 2] = (250, 0, 0)
    return video


def write(
    path: Path,
    frames: np.ndarray,
    *,
    fps: int = 12,
    stamps: Sequence[int] | None = None,
    rotation: tuple[float, bool] = (0, False),
    alpha: int | None = None,
    aspect: int = 1,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video by PyAV; stamps in 1 / `fps` seconds, pixels `aspect` times as wide as high."""
    codec = {".webm": "libvpx-vp9", ".gif": "gif", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    pixels = {".gif": "rgb8"}.get(path.suffix, "yuv420p")
    if alpha is not None:
        codec, pixels = "png", "rgba"
        frames = np.concatenate([frames, np.full_like(frames[..., :1], alpha)], -1)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if rotation != (0, False):
            stream.set_display_rotation(*rotation)
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.sample_aspect_ratio = Fraction(aspect, 1)
        for stamp, frame in zip(stamps or range(len(frames)), frames, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24" if alpha is None else "rgba")
            picture.pts, picture.time_base = stamp, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def read(source: str | Path, **options: Any) -> np.ndarray:
    return np.stack(list(read_video(source, **{"height": HEIGHT, "width": WIDTH, "fps": 12, **options})))


def levels(video: np.ndarray) -> np.ndarray:
    """Brightness of each frame's lower half, in steps."""
    return np.round(video[:, HEIGHT // 2 + 4 :].mean((1, 2, 3)) / 8).astype(int)


@pytest.mark.parametrize("name", KINDS)
def test_every_container_reads_back(tmp_path: Path, name: str) -> None:
    frames = shades(13)
    back = read(write(tmp_path / name, frames))
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - frames).mean() < (14 if name == "a.gif" else 4)
    assert back.shape == frames.shape


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "frames"])
def test_what_the_writer_writes_reads_back(tmp_path: Path, name: str) -> None:
    frames = shades(12)
    with VideoWriter(tmp_path / name, fps=10, height=HEIGHT, width=WIDTH) as writer:
        writer.write(frames)
    back = read(tmp_path / name, fps=10)
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 4


@pytest.mark.parametrize("fps", [8, 16, 24, 23.976])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_time_runs_at_the_same_speed_at_every_rate(tmp_path: Path, name: str, fps: float) -> None:
    back = levels(read(write(tmp_path / name, shades(25)), fps=fps))
    assert abs(len(back) - 25 / 12 * fps) < 1
    assert np.abs(back - np.arange(len(back)) / fps * 12).max() <= 1


def test_frames_last_as_long_as_their_timestamps_say(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mkv", shades(4), fps=10, stamps=[0, 10, 11, 20])
    assert levels(read(file, fps=10))[:21].tolist() == [0] * 6 + [1] * 5 + [2] * 5 + [3] * 5
    first, *rest = [Image.fromarray(frame) for frame in shades(3)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=[500, 100, 400])
    assert np.bincount(levels(read(tmp_path / "a.gif", fps=10))).tolist() == [3, 3, 4]


def test_a_clip_that_begins_late_or_before_zero_is_whole(tmp_path: Path) -> None:
    for begin in (-30, 500):
        file = write(tmp_path / "a.ts", shades(13), stamps=range(begin, begin + 13))
        assert levels(read(file)).tolist() == list(range(13))


@pytest.mark.parametrize(("height", "width"), [(31, 47), (33, 65), (5, 3)])
@pytest.mark.parametrize(("target_height", "target_width"), [(64, 96), (33, 17)])
def test_odd_sizes(tmp_path: Path, height: int, width: int, target_height: int, target_width: int) -> None:
    file = write(tmp_path / "a.mov", shades(2, height, width), alpha=255)
    assert read(file, height=target_height, width=target_width).shape == (2, target_height, target_width, 3)
    assert probe(file).height == height


@pytest.mark.parametrize(
    ("degrees", "mirrored", "corner"),
    [
        (0, True, (0, -1)),
        (90, False, (-1, 0)),
        (-90, False, (0, -1)),
        (180, False, (-1, -1)),
        (180, True, (-1, 0)),
        (90, True, None),
    ],
)
def test_a_phone_s_video_is_upright(
    tmp_path: Path, degrees: float, mirrored: bool, corner: tuple[int, int] | None
) -> None:
    file = write(tmp_path / "a.mp4", shades(2), rotation=(degrees, mirrored))
    height, width = (WIDTH, HEIGHT) if abs(degrees) == 90 else (HEIGHT, WIDTH)
    assert probe(file) == Probe(height, width, frames=2, seconds=pytest.approx(1 / 6), fps=12)
    frame = read(file, height=height, width=width)[0]
    red = [spot for spot in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if frame[spot][0] > 200]
    assert len(red) == 1
    assert corner is None or red == [corner]


def test_pixels_that_are_not_square_are_shown_in_their_shape(tmp_path: Path) -> None:
    seen = probe(write(tmp_path / "a.mkv", shades(1), aspect=2))
    assert (seen.height, seen.width) == (HEIGHT, 2 * WIDTH)


@pytest.mark.parametrize("alpha", [0, 128])
def test_transparent_frames_are_shown_over_black(tmp_path: Path, alpha: int) -> None:
    frames = np.full((2, HEIGHT, WIDTH, 3), 255, np.uint8)
    back = read(write(tmp_path / "a.mov", frames, alpha=alpha))
    assert np.abs(back.astype(int) - alpha).max() <= 1


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number, frame in enumerate(shades(12)):
        Image.fromarray(frame).save(tmp_path / f"a-{number}.png")
    (tmp_path / "notes.txt").touch()
    assert levels(read(tmp_path, fps=5)).tolist() == list(range(12))
    assert levels(read(tmp_path, fps=5, last=0.6)).tolist() == [9, 10, 11]
    assert probe(tmp_path) == Probe(HEIGHT, WIDTH, frames=12)


@pytest.mark.parametrize("last", [0.01, 0.5, 1, 60])
@pytest.mark.parametrize("fps", [7, 12])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.ts", "a.h264"])
def test_the_end_is_the_end_of_the_whole(tmp_path: Path, name: str, fps: int, last: float) -> None:
    file = write(tmp_path / name, shades(40, step=4))
    whole, end = read(file, fps=fps), read(file, fps=fps, last=last)
    assert len(end) == min(len(whole), max(1, int(last * fps + 0.5)))
    assert np.array_equal(end, whole[-len(end) :])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[av.VideoFrame]:
    """Every frame that is decoded."""
    seen, frames = [], Clip.frames

    def watched(clip: Clip) -> Iterator[av.VideoFrame]:
        for frame in frames(clip):
            seen.append(frame)
            yield frame

    monkeypatch.setattr(Clip, "frames", watched)
    return seen


def test_only_the_end_is_decoded_for_the_end(tmp_path: Path, decoded: list[av.VideoFrame]) -> None:
    assert len(read(write(tmp_path / "a.mp4", shades(96, step=2)), last=0.5)) == 6
    assert len(decoded) < 48


def test_frames_come_as_they_are_decoded(tmp_path: Path, decoded: list[av.VideoFrame]) -> None:
    frames = read_video(write(tmp_path / "a.mkv", shades(30)), height=8, width=8, fps=12)
    for number in range(1, 10):
        next(frames)
        assert len(decoded) <= number + 1


def test_memory_is_flat(tmp_path: Path) -> None:
    def alive() -> int:
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    file = write(tmp_path / "a.mp4", shades(40), rotation=(90, False))
    gc.collect()
    gc.disable()
    try:
        most = max(alive() for _ in read_video(file, height=8, width=8, fps=12))
    finally:
        gc.enable()
    assert 0 < most < 8


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("last", [None, 0.5])
def test_a_reading_that_is_given_up_closes_its_file(tmp_path: Path, last: float | None) -> None:
    file = write(tmp_path / "a.mkv", shades(30))
    frames = read_video(file, height=8, width=8, fps=12, last=last)
    next(frames)
    frames.close()
    assert str(file) not in [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]


def test_two_readings_are_the_same_and_frames_do_not_share_memory(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", shades(5))
    one, two = list(read_video(file, height=9, width=9, fps=30)), list(read_video(file, height=9, width=9, fps=30))
    assert np.array_equal(one, two)
    one[0][:] = 7
    assert np.array_equal(one[1], two[1])


def damaged(path: Path, share: float, *, noise: bool) -> Path:
    """Cut a file off at a share of its length, or fill the rest with noise."""
    whole = path.read_bytes()
    cut = int(share * len(whole))
    rest = np.random.default_rng(0).bytes(len(whole) - cut) if noise else b""
    path.write_bytes(whole[:cut] + rest)
    return path


@pytest.mark.parametrize("noise", [False, True])
def test_what_is_whole_of_a_damaged_file_is_read_and_the_damage_told(
    tmp_path: Path, noise: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "a.mp4", shades(60, step=4), options={"movflags": "faststart"})
    frames = read(damaged(file, 0.7, noise=noise))
    assert 10 < len(frames) < 60
    assert np.abs(frames[:10, HEIGHT // 2 + 4 :].mean((1, 2, 3)) - 4 * np.arange(10)).max() < 2
    assert [message.split(":")[0] for message in caplog.messages] == [f"{file} is damaged"]
    assert np.array_equal(read(file, last=0.5), frames[-6:])


def audio(path: Path, *, cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame" if cover else "pcm_s16le", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.int16), format="s16", layout="mono")
        silence.rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    if cover:
        Image.new("RGB", (8, 8)).save(path.with_suffix(".png"))
        tag = b"\0image/png\0\3\0" + path.with_suffix(".png").read_bytes()
        tag = b"APIC" + struct.pack(">IH", len(tag), 0) + tag
        size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
        path.write_bytes(b"ID3\3\0\0" + size + tag + path.read_bytes())
    return path


def unknown_codec(path: Path) -> Path:
    write(path, shades(3)).write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    return path


BAD = {
    "zero length": (lambda p: p.touch(), "is empty"),
    "text": (lambda p: p.write_text("hello\n" * 100), "damaged or not a video"),
    "plain text": (lambda p: p.with_suffix(".txt").write_text("hello\n" * 100), "has no video"),
    "zeros": (lambda p: p.write_bytes(bytes(9000)), "damaged or not a video"),
    "noise": (lambda p: p.write_bytes(np.random.default_rng(0).bytes(9000)), "damaged or not a video"),
    "cut before its index": (lambda p: damaged(write(p, shades(9)), 0.5, noise=False), "damaged or not a video"),
    "cut in its header": (lambda p: damaged(write(p.with_suffix(".webm"), shades(9)), 0.1, noise=False), "a.webm"),
    "noise after its header": (
        lambda p: damaged(write(p.with_suffix(".avi"), shades(9)), 0.4, noise=True),
        "has no frame",
    ),
    "audio": (lambda p: audio(p.with_suffix(".wav")), "has no video"),
    "audio with a cover": (lambda p: audio(p.with_suffix(".mp3"), cover=True), "has no video"),
    "unknown codec": (unknown_codec, "cannot be decoded"),
    "playlist": (lambda p: p.write_text("#EXTM3U\n#EXTINF:9,\nsecret.ts\n#EXT-X-ENDLIST\n"), "damaged or not a video"),
    "list": (lambda p: p.write_text("ffconcat version 1.0\nfile secret.ts\n"), "damaged or not a video"),
    "session": (lambda p: p.write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n"), "a.mp4"),
    "HTML": (lambda p: p.write_text("<html><body>404 not found</body></html>"), "damaged or not a video"),
    "zip": (lambda p: p.write_bytes(b"PK\3\4" + bytes(500)), "damaged or not a video"),
    "link in a pointer file": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "damaged or not a video",
    ),
    "empty folder": (lambda p: p.with_suffix("").mkdir(), "has no frames: expected .png"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_video_is_one_line(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "secret.ts", shades(3))
    make, message = BAD[kind]
    make(tmp_path / "a.mp4")
    (file,) = {path for path in tmp_path.iterdir() if path.stem == "a"} - {tmp_path / "a.png"}
    for attempt in (lambda: read(file), lambda: read(file, last=1), lambda: probe(file)):
        with pytest.raises(ValueError, match=message) as caught:
            attempt()
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path / "none.mp4", "http://127.0.0.1:1/none.mp4"):
        for last in (None, 1):
            with pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist"):
                read(place, last=last)
    with pytest.raises(ValueError, match="not a regular file"):
        read("/dev/null")
    (tmp_path / "a.mp4").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        probe(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"0")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionError, match=r"no permission to read .*b\.mp4"):
        read(tmp_path / "b.mp4")


def two_sizes(folder: Path) -> Path:
    """A stream of three small frames, then three large ones."""
    small, large = write(folder / "b.h264", shades(3)), write(folder / "c.h264", shades(3, 2 * HEIGHT, 2 * WIDTH))
    (folder / "a.h264").write_bytes(small.read_bytes() + large.read_bytes())
    return folder / "a.h264"


def test_a_size_may_change_on_the_way(tmp_path: Path) -> None:
    assert levels(read(two_sizes(tmp_path))).tolist() == [0, 1, 2] * 2


def test_absurd_sizes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = two_sizes(tmp_path)
    monkeypatch.setattr("causvid.media.clip.PIXELS", 2 * HEIGHT * WIDTH)
    assert levels(read(file)).tolist() == [0, 1, 2]
    assert "is damaged" in caplog.text
    monkeypatch.setattr("causvid.media.clip.PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(ValueError, match=r"a\.h264 has 48 × 32 pixels: expected at most 1535"):
        read(file)
    with pytest.raises(ValueError, match="at most"):
        read(file, height=image.PIXELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps=0: expected"),
        ({"fps": -1}, "fps=-1: expected"),
        ({"fps": float("nan")}, "fps=nan: expected"),
        ({"fps": float("inf")}, "fps=inf: expected"),
        ({"last": 0}, "last=0: expected seconds"),
        ({"last": float("nan")}, "last=nan: expected seconds"),
        ({"last": 1e30}, "last=1e.30: expected seconds"),
        ({"width": 0}, "width=0: expected positive"),
        ({"fit": "crop"}, "fit='crop' is unknown"),
    ],
)
def test_an_invalid_option_is_one_line_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_video("none.mp4", **{"height": 8, "width": 8, "fps": 8, **options})


@pytest.mark.parametrize("name", ["webcam:97", "/dev/video97"])
def test_a_camera_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(OSError, match="no camera can be opened at /dev/video97: ") as caught:
        read(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is a camera, which has no end"):
        read(name, last=1)


@pytest.mark.parametrize(("name", "device"), [("webcam", "/dev/video0"), ("webcam:2", "/dev/video2")])
def test_a_camera_is_read_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, device: str) -> None:
    file, opened, asked = write(tmp_path / "a.mkv", shades(5)), av.open, []

    def camera(path: str, mode: str, **options: Any) -> Any:
        asked.append((path, options["format"]))
        return opened(str(file))

    monkeypatch.setattr(av, "open", camera)
    assert levels(read(name)).tolist() == list(range(5))
    assert asked == [(device, "v4l2")]
