"""A source's sound lies beside the frames that are made of it, at the same times."""

from pathlib import Path

import av
import numpy as np
import pytest

from causvid.media import VideoWriter
from causvid.media.sound import RATE, Sound


def film(
    path: Path, *, seconds: float, sound: float, rate: int = 44_100, layout: str = "mono", late: float = 0
) -> Path:
    """Write a video of grey frames, with a tone of 440 Hz that begins `late` and lasts `sound` seconds."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream("aac", rate=rate)
        track.codec_context.layout = layout
        for n in range(round(10 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts = n
            container.mux(video.encode(frame))
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(sound * rate)) / rate).astype(np.float32)
        for start in range(0, len(tone), 1024):
            part = tone[None, start : start + 1024].repeat(1 if layout == "mono" else 2, axis=0)
            block = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            block.sample_rate, block.pts = rate, start + round(late * rate)
            container.mux(track.encode(block))
        container.mux(video.encode())
        container.mux(track.encode())
    return path


def samples(path: Path) -> np.ndarray:
    """Return the sound of a file, [S], one channel."""
    sound = Sound.open(path)
    if sound is None:
        return np.zeros(0)
    found = np.concatenate([block[0] for block in sound.blocks()])
    sound.close()
    return found


def written(target: Path, source: Path, *, frames: int, until: int | None = None) -> np.ndarray:
    with VideoWriter(target, fps=10, height=48, width=64) as writer:
        writer.keep_sound(source)
        for n in range(frames):
            if n == until:
                writer.end_sound()
            writer.write(np.zeros((1, 48, 64, 3), np.uint8))
    return samples(target)


def loud(sound: np.ndarray) -> float:
    """Return how many seconds of it are not silent."""
    pieces = sound[: len(sound) // 480 * 480].reshape(-1, 480)
    return float((np.abs(pieces).max(axis=1) > 0.1).sum()) / 100


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
@pytest.mark.parametrize(("rate", "layout"), [(44_100, "mono"), (48_000, "stereo"), (22_050, "stereo")])
def test_the_tone_is_kept_in_every_format(tmp_path: Path, suffix: str, rate: int, layout: str) -> None:
    source = film(tmp_path / "s.mp4", seconds=2, sound=2, rate=rate, layout=layout)
    kept = written(tmp_path / f"a{suffix}", source, frames=20)[:RATE]
    spectrum = np.abs(np.fft.rfft(kept))
    assert np.argmax(spectrum) * RATE / len(kept) == pytest.approx(440, abs=2)
    assert np.abs(kept).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "sound", "frames", "until", "expected"),
    [(2, 3, 20, None, 2.0), (2, 1, 20, None, 1.0), (2, 2, 40, 20, 2.0), (2, 2, 10, None, 1.0), (2, 4, 30, 20, 2.0)],
)
def test_sound_lasts_as_long_as_both_go(
    tmp_path: Path, seconds: int, sound: int, frames: int, until: int | None, expected: float
) -> None:
    source = film(tmp_path / "s.mp4", seconds=seconds, sound=sound)
    kept = written(tmp_path / "a.mp4", source, frames=frames, until=until)
    assert loud(kept) == pytest.approx(expected, abs=0.08)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames


def test_sound_that_begins_late_stays_late(tmp_path: Path) -> None:
    kept = written(tmp_path / "a.mp4", film(tmp_path / "s.mp4", seconds=2, sound=1, late=0.5), frames=20)
    begins = np.argmax(np.abs(kept) > 0.1) / RATE
    assert begins == pytest.approx(0.5, abs=0.06)


def test_what_has_no_sound_makes_a_video_without(tmp_path: Path) -> None:
    silent = tmp_path / "silent.mp4"
    with VideoWriter(silent, fps=10, height=48, width=64) as writer:
        writer.write(np.zeros((3, 48, 64, 3), np.uint8))
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "frames").mkdir()
    for source in (silent, tmp_path / "noise.mp4", tmp_path / "frames", tmp_path / "absent.mp4", Path("webcam")):
        assert not written(tmp_path / "a.mp4", source, frames=3).size


def test_a_damaged_sound_is_kept_as_far_as_it_goes(tmp_path: Path) -> None:
    source = film(tmp_path / "s.mp4", seconds=2, sound=2)
    content = bytearray(source.read_bytes())
    start = content.index(b"mdat")
    content[start + 9000 : start + 9400] = bytes(400)
    source.write_bytes(content)
    written(tmp_path / "a.mp4", source, frames=20)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


@pytest.mark.parametrize("suffix", [".gif", ".png", ""])
def test_pictures_have_no_sound_and_are_written(tmp_path: Path, suffix: str) -> None:
    source = film(tmp_path / "s.mp4", seconds=1, sound=1)
    with VideoWriter(tmp_path / f"a{suffix}", fps=10, height=48, width=64) as writer:
        writer.keep_sound(source)
        writer.write(np.zeros((3, 48, 64, 3), np.uint8))
        writer.end_sound()
    assert len(list(tmp_path.iterdir())) == (4 if suffix == ".png" else 2)
