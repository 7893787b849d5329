"""The sound of a video file, beside frames that are written elsewhere.

Letters: K channels, S samples of each.
"""

import logging
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from causvid.media.clip import camera
from causvid.opening import open_regular

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer

RATE = 48_000
"""Samples a second, which every codec of sound takes."""
LONGEST_GAP = 600
"""Most seconds of silence between two pieces of sound."""
_log = logging.getLogger(__name__)


class Sound:
    """The sound of a file from its first frame on: fp32, mono or stereo, at `RATE`, silent where it has gaps."""

    def __init__(self, container: "InputContainer", stream: "AudioStream", file: ExitStack) -> None:
        self._container, self._stream, self._file = container, stream, file
        self.layout = "mono" if stream.channels == 1 else "stereo"
        self._samples = self._decode()

    @classmethod
    def open(cls, source: str | Path) -> "Sound | None":
        """Open the sound of a video; None for what has none: a camera, a folder of frames, a silent or damaged file."""
        import av

        if camera(source) is not None or not Path(source).is_file():
            return None
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open_regular(source))
                options = {"protocol_whitelist": "none"}
                container = stack.enter_context(av.open(file, "r", options=options, metadata_errors="replace"))
            except (av.error.FFmpegError, OSError, ValueError):
                return None
            stream = next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context is None:
                return None
            return cls(container, stream, stack.pop_all())
        return None

    def close(self) -> None:
        """Close the file."""
        self._samples.close()
        self._file.close()

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the samples in order, `[K, S]`; of a damaged file, what can be decoded."""
        return self._samples

    def _decode(self) -> Generator[NDArray[np.float32], None, None]:
        import av

        resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=RATE)
        video = next(iter(self._container.streams.video), None)
        start = Fraction(0)  # of the picture
        if video is not None and video.start_time is not None and video.time_base:
            start = video.start_time * video.time_base
        done = 0
        try:
            for decoded in self._container.decode(self._stream):
                begin = Fraction(0) if decoded.pts is None or not decoded.time_base else decoded.pts * decoded.time_base
                place = round((begin - start) * RATE)
                decoded.pts = None
                for part in resampler.resample(decoded):
                    samples = part.to_ndarray().astype(np.float32, copy=False)
                    before, place = max(0, -place), place + part.samples  # what comes before the picture is left out
                    samples = samples[:, before:]
                    missing = min(place - samples.shape[1] - done, LONGEST_GAP * RATE)
                    if missing > RATE // 10:  # less is the rounding of timestamps
                        yield from np.array_split(
                            np.zeros((1 if self.layout == "mono" else 2, missing), np.float32),
                            -(-missing // RATE),
                            axis=1,
                        )
                        done += missing
                    done += samples.shape[1]
                    if samples.size:
                        yield samples
        except (av.error.FFmpegError, OSError, ValueError) as error:
            _log.warning("sound: what follows %.1f s cannot be decoded (%s)", done / RATE, error)
