"""Frames from the middle of a video are those that decoding from its beginning gives, whatever the file."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from causvid.media import BrokenClock, read_video
from causvid.media.clip import Clip

FRAMES, RATE = 240, 24
X264 = {"preset": "ultrafast", "bf": "3", "g": "50"}
FILES = {
    "b-frames.mp4": ("libx264", X264),
    "open-gop.mkv": ("libx264", {**X264, "x264-params": "open-gop=1:keyint=40:bframes=3"}),
    "open-gop.ts": ("libx264", {**X264, "x264-params": "open-gop=1:keyint=40:bframes=3"}),
    "no-key-frames.ts": ("libx264", {**X264, "x264-params": "intra-refresh=1:keyint=40:bframes=0"}),
    "one-key-frame.mp4": ("libx264", {**X264, "g": "9999", "keyint_min": "9999"}),
    "irregular.mkv": ("libx264", X264),
    "late.ts": ("libx264", X264),
    "rotated.mp4": ("libx264", X264),
    "interlaced.mkv": ("libx264", {**X264, "x264-params": "interlaced=1:keyint=50"}),
    "interlaced.ts": ("mpeg2video", {"g": "15", "bf": "2", "flags": "+ildct+ilme"}),
    "hdr.mkv": ("libx265", {"preset": "ultrafast", "x265-params": "keyint=50:bframes=3:log-level=none"}),
    "vp9.webm": ("libvpx-vp9", {"g": "50", "deadline": "realtime", "cpu-used": "8"}),
    "av1.mp4": ("libsvtav1", {"preset": "11", "g": "64"}),
    "mpeg4.avi": ("mpeg4", {"g": "50", "bf": "2"}),
}


def write(path: Path, codec: str, options: dict[str, str], stamps: Sequence[int]) -> Path:
    """Write frames that differ from each other everywhere; stamps in 1 / 96 seconds."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, 8, 10, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.height, stream.width = noise.shape[1:3]
        stream.pix_fmt = "yuv420p10le" if path.stem == "hdr" else "yuv420p"
        if path.stem == "hdr":
            stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9
        if path.stem == "rotated":
            stream.set_display_rotation(90, False)
        stream.codec_context.time_base = Fraction(1, 96)
        for stamp, pixels in zip(stamps, noise, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 96)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fps", [8, 25])
def test_sought_frames_are_those_of_the_whole(tmp_path: Path, name: str, fps: float) -> None:
    stamps = np.arange(FRAMES) * 4 + (5000 if name == "late.ts" else 0)
    if name == "irregular.mkv":
        stamps = np.cumsum(np.random.default_rng(1).integers(1, 9, FRAMES))
    file = write(tmp_path / name, *FILES[name], stamps.tolist())
    whole = np.stack(list(read_video(file, height=32, width=40, fps=fps)))
    count = len(whole)
    for first in (1, count // 3, count // 2 + 1, count - 9, count - 1, count, count + 100):
        for strict in (True, False):
            found = list(read_video(file, height=32, width=40, fps=fps, first=first, strict=strict))
            assert len(found) == max(0, count - first), (first, strict)
            assert not found or np.array_equal(np.stack(found), whole[first:]), (first, strict)


def test_only_frames_from_a_key_frame_on_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.mp4", "libx264", X264, range(0, 4 * FRAMES, 4))
    given, original = list[object](), Clip.frames

    def counted(self: Clip, *, keyed: bool = False):  # type: ignore[no-untyped-def]
        for item in original(self, keyed=keyed):
            given.append(item[0])
            yield item

    monkeypatch.setattr(Clip, "frames", counted)
    list(read_video(file, height=32, width=40, fps=RATE, first=FRAMES - 10, strict=True))
    assert len(given) < 100
    assert len(list(read_video(file, height=32, width=40, fps=RATE, first=FRAMES - 10))) == 10


def test_a_broken_clock_is_refused_where_frames_are_sought(tmp_path: Path) -> None:
    file = write(tmp_path / "a.h264", "libx264", X264, range(0, 4 * FRAMES, 4))  # without timestamps
    with pytest.raises(BrokenClock, match="is missing or does not follow"):
        list(read_video(file, height=32, width=40, fps=RATE, strict=True))
    assert len(list(read_video(file, height=32, width=40, fps=RATE))) > 0


def test_rough_frames_look_the_same(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", "libx264", X264, range(0, 4 * FRAMES, 4))
    rough, fine = (
        np.stack(list(read_video(file, height=8, width=10, fps=RATE, fit="stretch", rough=rough)))
        for rough in (True, False)
    )
    assert rough.shape == fine.shape and np.abs(rough.astype(int) - fine).mean() < 6
