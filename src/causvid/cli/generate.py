"""`causvid generate`: a sentence becomes a file, encoded while later chunks are still being made."""

import sys
import time
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causvid.cli.options import DeviceOption, ModelOption, load_pipeline, progress_bar
from causvid.interrupt import gentle_interrupt
from causvid.media import VideoWriter, check_target

if TYPE_CHECKING:
    from causvid.pipeline import Pipeline

READY = 2
"""Chunks that may wait to be encoded."""
DISPLAY_WIDTH = 384
"""Pixels a video is enlarged to, or more, when no scale is asked for."""


def generate(
    prompt: Annotated[str, typer.Argument(help="What to show, in a sentence.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="mp4, webm, gif, png, or a folder for PNG frames.")],
    model: ModelOption = None,
    seconds: Annotated[float | None, typer.Option(help="Length. Default: that of the clips it was trained on.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same video.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Denoising steps a chunk, or of the teacher.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, where the model allows it.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, where the model allows it.")] = None,
    window: Annotated[int | None, typer.Option(help="Latent frames of the past it sees.")] = None,
    sink: Annotated[int | None, typer.Option(help="First latent frames it never forgets.")] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Use the slow teacher: the whole clip at once.")] = False,
    scale: Annotated[
        int | None, typer.Option(min=1, max=16, help=f"Enlarge. Default: to {DISPLAY_WIDTH} pixels or more.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Make a video of a sentence, chunk by chunk."""
    check_target(output)
    pipeline = load_pipeline(model, device)
    began = time.perf_counter()
    stream = pipeline.stream(
        prompt,
        seconds=pipeline.clip_seconds if seconds is None else seconds,
        seed=seed,
        mode="teacher" if teacher else "student",
        steps=steps,
        window=window,
        sink=sink,
        height=height,
        width=width,
    )
    _note_unknown_words(pipeline, prompt)
    print(_write(stream, output, fps=pipeline.fps, scale=scale, began=began))


def _write(stream: Iterable[Any], output: Path, *, fps: float, scale: int | None, began: float) -> str:
    """Write frames, uint8 [T, H, W, 3], while later ones are being made; return a line that sums up.

    began: when the prompt was given, by `time.perf_counter`; latency and FPS count from there.
    Ctrl-C ends the file after the chunks that are finished.
    """
    first = last = 0.0
    writer: VideoWriter | None = None
    try:
        with (
            gentle_interrupt() as stop,
            progress_bar() as progress,
            closing(_ahead(stream, stop)) as chunks,
            ExitStack() as file,
        ):
            task = progress.add_task("first chunk", total=None, detail="")
            for number, frames in enumerate(chunks, 1):
                last = time.perf_counter() - began
                if writer is None:  # it opens with the first frames: until they are there, no file is
                    first = last
                    height, width = frames.shape[1:3]
                    enlarge = scale or max(1, -(-DISPLAY_WIDTH // width))
                    writer = file.enter_context(VideoWriter(output, fps=fps, height=height, width=width, scale=enlarge))
                writer.write(frames)
                detail = f"{writer.frames / fps:.1f} s of video · {writer.frames / last:.1f} FPS"
                progress.update(task, description=f"chunk {number}", detail=detail)
            if stop.is_set():
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        kept = f"{output} keeps the {writer.frames} frames that were finished" if writer else "no frames were finished"
        print(f"stopped: {kept}", file=sys.stderr)
        raise
    assert writer is not None, "a stream yields at least one chunk"
    return (
        f"{output}: {writer.frames} frames, {writer.frames / fps:.1f} s at {fps:g} fps · "
        f"first frame after {first:.2f} s · {writer.frames / last:.1f} FPS"
    )


def _ahead(chunks: Iterable[Any], stop: Event) -> Generator[Any, None, None]:
    """Yield chunks made in a thread of their own, so that the model works while frames are encoded.

    The thread is at most two chunks ahead. After `stop` is set, those that are ready still come, then no more.
    """
    ready: Queue[Any] = Queue(maxsize=READY)
    end = object()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except Full:
                continue

    def make() -> None:
        try:
            for chunk in chunks:
                put(chunk)
                if stop.is_set():
                    break
            put(end)
        except BaseException as error:
            put(error)

    # A daemon: a chunk of a large model may take minutes, and nobody waits for it once the file is closed.
    maker = Thread(target=make, name="chunks", daemon=True)
    maker.start()
    try:
        while True:
            try:
                item = ready.get(timeout=0.1)
            except Empty:
                if stop.is_set():
                    return
                continue
            if item is end:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    except GeneratorExit:
        stop.set()
        raise
    finally:
        maker.join(timeout=5)


def _note_unknown_words(pipeline: "Pipeline", prompt: str) -> None:
    from causvid.models.bundle import words_command

    words = pipeline.unknown_words(prompt)
    if words:
        known = f"`{words_command(pipeline.bundle.provenance)}` lists those it does"
        print(f"note: the model does not know {', '.join(map(repr, words))}; {known}", file=sys.stderr)
