"""A timeline played into a file, chunk by chunk: what all commands that make video share."""

import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid.cli.options import load_pipeline, progress_bar
from causvid.engine.request import LATENTS
from causvid.interrupt import gentle_interrupt
from causvid.loading.spec import ModelSpec
from causvid.staging import check_file, check_target

if TYPE_CHECKING:
    from torch import Tensor

    from causvid.media import VideoWriter
    from causvid.pipeline import Pipeline
    from causvid.timeline import Timeline

READY = 2
"""Chunks that may wait to be encoded."""
DISPLAY_WIDTH = 384
"""Pixels a video is enlarged to, or more, when no scale is asked for."""

PromptArgument = Annotated[str, typer.Argument(help="What to show, in a sentence.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="mp4, webm, lossless mkv, gif, png, or a folder.")]
ScaleOption = Annotated[
    int | None, typer.Option(min=1, max=16, help=f"Enlarge. Default: to {DISPLAY_WIDTH} pixels or more.")
]


@dataclass(frozen=True)
class Keeping:
    """What is kept beside the video."""

    scale: ScaleOption = None
    save_timeline: Annotated[
        Path | None, typer.Option(help="Write what `causvid play` makes this again from: .toml or .json.")
    ] = None
    latents: Annotated[
        Path | None, typer.Option(help="Write the clean latents, to extend or decode again: .safetensors.")
    ] = None

    def check(self, output: Path, *inputs: str | Path | None) -> None:
        """Raise an error unless all of it can be written, over none of the inputs; touch nothing."""
        from causvid.timeline import check_suffix

        check_target(output)
        if self.save_timeline is not None:
            check_suffix(self.save_timeline)
        if self.latents is not None and self.latents.suffix != LATENTS:
            raise ValueError(f"latents={self.latents} has suffix {self.latents.suffix!r}, expected {LATENTS}")
        for path in filter(None, (self.save_timeline, self.latents)):
            check_file(path)
        for path in filter(None, (output, self.save_timeline, self.latents)):
            for given in inputs:
                if given is not None and path.exists() and Path(given).exists() and path.samefile(given):
                    raise ValueError(f"output {path} is what it is made from: choose another name")


@dataclass(frozen=True)
class Written:
    """What came of it: new frames and chunks in the file; seconds until the first and the last; cut short by Ctrl-C."""

    frames: int
    chunks: int
    first: float
    last: float
    stopped: bool

    def report(self, output: Path, fps: float) -> None:
        """Print a line that sums up; raise `KeyboardInterrupt` if it was cut short."""
        if self.stopped:
            raise KeyboardInterrupt
        if output.suffix.lower() == ".png" and not output.is_dir():
            output = output.with_stem(f"{output.stem}-00000")  # the first of its frames, each a file
        print(
            f"{output}: {self.frames} frames, {self.frames / fps:.1f} s at {fps:g} fps · "
            f"first frame after {self.first:.2f} s · {self.frames / self.last:.1f} FPS"
        )


def load(parts: dict[str, Any], device: str | None, *, teacher: bool = False) -> "Pipeline":
    """Load the model that a command's options name."""
    return load_pipeline(ModelSpec.make(**parts, teacher=teacher), device)


def named(parts: dict[str, Any], pipeline: "Pipeline") -> dict[str, Any]:
    """Return what a timeline says of the model that `parts` were loaded as.

    A preset that was chosen by a student's name or size is written out: a file may be moved, and renamed.
    """
    chosen = None if parts["student"] is None else pipeline.bundle.provenance.get("preset")
    return {**parts, "preset": parts["preset"] or chosen}


def make_timeline(
    pipeline: "Pipeline", parts: dict[str, Any], shot: dict[str, Any], *, seconds: float | None, **options: Any
) -> "Timeline":
    """Make the timeline of one shot, by default as long as a training clip."""
    from causvid.timeline import Timeline

    length = pipeline.clip_seconds if seconds is None else seconds
    return Timeline.make(seconds=length, shots=[{"at": 0, **shot}], **options, **named(parts, pipeline))


def play_timeline(
    pipeline: "Pipeline", timeline: "Timeline", output: Path, keeping: Keeping, *, before: Iterable[Any] | None = None
) -> None:
    """Play a timeline into a file, print a line that sums up, and keep what is to be kept.

    before: frames, uint8 [T, H, W, 3], that the video starts with: those it continues, with their sound.
    """
    if keeping.latents is not None and any(shot.image for shot in timeline.shots[1:]):
        raise ValueError("latents: a video that starts over with an image has none that belong together")
    began = time.perf_counter()
    playback = pipeline.play(timeline)
    note_unknown_words(pipeline, [shot.prompt for shot in timeline.shots])
    continued, latents = playback.stream.session.continued, list["Tensor"]()

    def made() -> Iterator[Any]:
        for frames in playback:
            assert playback.latent is not None
            latents.append(playback.latent.cpu())
            yield frames

    sound = timeline.source if before is None else timeline.after
    written = write_video(
        made(),
        output,
        fps=pipeline.fps,
        scale=keeping.scale,
        began=began,
        before=before,
        sound=sound,
        tags=timeline.tags(),
    )
    if keeping.save_timeline is not None:
        from causvid.timeline import versions

        # What plays the video again, as far as it is in the file.
        played = timeline if written.frames >= playback.length else timeline.up_to(written.frames / playback.fps)
        played.model_copy(update={"versions": versions()}).save(keeping.save_timeline)
    if keeping.latents is not None:
        import torch

        from causvid.engine.latents import save_latents

        parts = ([] if continued is None else [continued.cpu()]) + latents[: written.chunks]
        save_latents(keeping.latents, torch.cat(parts, dim=1), fps=pipeline.fps)
    written.report(output, pipeline.fps)


def write_video(
    made: Iterable[Any],
    output: Path,
    *,
    fps: float,
    scale: int | None,
    began: float,
    before: Iterable[Any] | None = None,
    sound: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Written:
    """Write frames, uint8 [T, H, W, 3], while later ones are being made.

    began: when they were asked for, by `time.perf_counter`; latency and speed count from there. before: frames that are
    there already, and come first. sound: a video whose sound is kept, beside `before` alone if there is any. tags: what
    a video file says of itself. Ctrl-C ends the file after the chunks that are finished; without any there is none.
    """
    times: list[float] = []
    frames = 0
    writer: VideoWriter | None = None
    try:
        with (
            gentle_interrupt() as stop,
            progress_bar() as progress,
            closing(_ahead(made, stop)) as chunks,
            ExitStack() as file,
        ):
            task = progress.add_task("first chunk", total=None, detail="")

            def write(pixels: Any) -> None:
                nonlocal writer
                if writer is None:  # it opens with the first frames: until they are there, no file is
                    height, width = pixels.shape[1:3]
                    enlarge = scale or max(1, -(-DISPLAY_WIDTH // width))
                    from causvid.media import VideoWriter

                    writer = file.enter_context(VideoWriter(output, fps=fps, height=height, width=width, scale=enlarge))
                    writer.describe(tags or {})
                    if sound is not None:
                        writer.keep_sound(sound)
                writer.write(pixels)

            reading = time.perf_counter()
            for pixels in takewhile(lambda _: not stop.is_set(), before or ()):
                write(pixels)
            if before is not None and writer is not None:
                writer.end_sound()
            began += time.perf_counter() - reading
            for pixels in chunks:
                times.append(time.perf_counter() - began)
                write(pixels)
                frames += len(pixels)
                detail = f"{frames / fps:.1f} s of video · {frames / times[-1]:.1f} FPS"
                progress.update(task, description=f"chunk {len(times)}", detail=detail)
            if stop.is_set() and not frames:
                raise _NothingMade
    except _NothingMade:
        print("stopped: no frames were finished", file=sys.stderr)
        raise KeyboardInterrupt from None
    if stop.is_set():
        print(f"stopped: {output} keeps the {frames} frames that were finished", file=sys.stderr)
    assert times, "a stream yields at least one chunk"
    return Written(frames, len(times), times[0], times[-1], stop.is_set())


class _NothingMade(Exception):
    """Ctrl-C came before the first chunk: no file is to be left."""


def _ahead(chunks: Iterable[Any], stop: Event) -> Generator[Any, None, None]:
    """Yield chunks made in a thread of their own, so that the model works while frames are encoded.

    The thread is at most two chunks ahead. After `stop` is set, those that are ready still come, then no more.
    """
    ready: Queue[Any] = Queue(maxsize=READY)

    def put(item: Any) -> None:
        while not stop.is_set():
            with suppress(Full):
                return ready.put(item, timeout=0.1)

    def make() -> None:
        try:
            for chunk in chunks:
                put(chunk)
                if stop.is_set():
                    return
            put(StopIteration())
        except BaseException as error:
            put(error)

    # A daemon: a chunk of a large model may take minutes, and nobody waits for it once the file is closed.
    maker = Thread(target=make, name="chunks", daemon=True)
    maker.start()
    try:
        while not (stop.is_set() and ready.empty()):
            with suppress(Empty):
                item = ready.get(timeout=0.1)
                if isinstance(item, StopIteration):
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
    except GeneratorExit:
        stop.set()
        raise
    finally:
        maker.join(timeout=5)


def note_unknown_words(pipeline: "Pipeline", prompts: Iterable[str]) -> None:
    """Say which words of the prompts the model has never seen, and which others it reads in their place."""
    from causvid.loading.bundle import words_command

    prompts = list(prompts)
    replaced = dict.fromkeys(pair for prompt in prompts for pair in pipeline.understood(prompt)[1])
    if replaced:
        print(f"note: read as {', '.join(f'{word} → {other}' for word, other in replaced)}", file=sys.stderr)
    words = dict.fromkeys(word for prompt in prompts for word in pipeline.unknown_words(prompt))
    if words:
        known = f"`{words_command(pipeline.bundle.provenance)}` lists those it does"
        print(f"note: the model does not know {', '.join(map(repr, words))}; {known}", file=sys.stderr)
