"""Frames from outside: an image, the end of a video, a video chunk by chunk."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from causvid.engine.latents import save_latents
from causvid.engine.source import LIVELY, Source, SourceChunk, adapted, motion, open_source, to_pixels
from causvid.media import VideoWriter, to_bytes
from causvid.models.autoencoder import pixel_frames
from causvid.pipeline import Pipeline, Stream

Make = Callable[..., Pipeline]
PROMPT = "a red swan over the snow"
CPU = torch.device("cpu")


def noisy(count: int, height: int = 32, width: int = 48) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8))


def stream(pipeline: Pipeline, **options: Any) -> Stream:
    made = pipeline.stream(PROMPT, **options)
    assert isinstance(made, Stream)
    return made


@torch.inference_mode()
def encoded(pipeline: Pipeline, frames: list[NDArray[np.uint8]]) -> torch.Tensor:
    return pipeline.bundle.autoencoder.encode(to_pixels(frames, CPU))


def source_of(pipeline: Pipeline, video: Any, *, live: bool = False) -> Source:
    return open_source(
        video,
        pipeline.bundle.autoencoder,
        height=32,
        width=48,
        fps=8,
        fit="cover",
        first=1,
        chunk=3,
        device=CPU,
        live=live,
    )


@torch.inference_mode()
def parts_of(source: Source) -> list[SourceChunk]:
    parts = []
    while (part := source.next()) is not None:
        parts.append(part)
    return parts


def latents_of(made: Stream, chunks: int | None = None) -> torch.Tensor:
    latents = []
    for _ in islice(made, chunks):
        assert made.latent is not None
        latents.append(made.latent)
    return torch.cat(latents, dim=1)


@pytest.mark.parametrize(("first", "chunk"), [(1, 3), (3, 3), (2, 2)])
def test_an_image_is_the_first_frame_as_the_autoencoder_sees_it(make: Make, first: int, chunk: int) -> None:
    pipeline = make(first=first, chunk=chunk, clip_frames=first + 2 * chunk)
    (image,) = noisy(1)
    made = stream(pipeline, image=image, seconds=4)
    frames = next(made)
    with torch.inference_mode():
        expected = to_bytes(pipeline.bundle.autoencoder.decode(encoded(pipeline, [image]))[0])
    assert torch.equal(frames, expected) and made.frames == 1
    assert [len(part) for part in islice(made, 2)] == [4 * chunk] * 2
    other = stream(pipeline, image=255 - image, seconds=4)
    assert not torch.equal(latents_of(other, 2)[:, 1:], latents_of(stream(pipeline, image=image), 2)[:, 1:])


def test_an_image_of_another_shape_is_brought_to_size(small: Pipeline) -> None:
    (image,) = noisy(1, 50, 40)
    frames = {fit: next(stream(small, image=image, fit=fit)) for fit in ("cover", "contain", "stretch")}
    assert all(part.shape == (1, 32, 48, 3) for part in frames.values())
    assert not torch.equal(frames["cover"], frames["contain"])


@pytest.mark.parametrize(("count", "seen"), [(1, 1), (4, 1), (12, 1), (13, 13), (20, 13), (25, 25), (40, 25)])
def test_an_extension_continues_from_the_end_that_falls_into_chunks(small: Pipeline, count: int, seen: int) -> None:
    video = noisy(count)
    made = stream(small, after=iter(video), window=30)
    assert torch.equal(made.snapshot().point.history.latents, encoded(small, video[-seen:]))
    assert [len(frames) for frames in islice(made, 2)] == [12, 12]
    assert made.frames == 24


@pytest.mark.parametrize(("count", "seen"), [(1, 1), (8, 1), (9, 9), (20, 9), (21, 21)])
def test_a_video_too_short_for_the_first_chunk_gives_its_last_frame(make: Make, count: int, seen: int) -> None:
    pipeline = make(first=3, chunk=3, clip_frames=9)
    video = noisy(count)
    made = stream(pipeline, after=video, window=30)
    assert torch.equal(made.snapshot().point.history.latents, encoded(pipeline, video[-seen:]))
    assert len(next(made)) == 12


def test_what_encoding_lost_fades_out_over_an_extensions_first_chunk(small: Pipeline) -> None:
    """But for that, frames of the decoded history and the new ones are those of all latents decoded at once."""
    video = noisy(13)
    made = stream(small, after=video)
    history = made.snapshot().point.history.latents
    first, latents = next(made), [history, made.latent]
    second = next(made)
    with torch.inference_mode():
        every = torch.cat([part for part in (*latents, made.latent) if part is not None], dim=1)
        whole = small.bundle.autoencoder.decode(every)[0].movedim(1, -1) * 255
    lost = torch.from_numpy(video[-1]) - whole[12]
    left = (1 - torch.arange(1, 13) / 13)[:, None, None, None]
    assert lost.abs().mean() > 10
    assert (first - (whole[13:25] + left * lost).clamp(0, 255)).abs().max() <= 1
    assert (second - whole[25:]).abs().max() <= 1


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("kind", ["tensor", "file"])
def test_a_run_is_continued_from_its_latents(
    make: Make, small_wan: Pipeline, tmp_path: Path, image: bool, kind: str
) -> None:
    """With the noise of the run that continues, the extension is that run."""
    for number, pipeline in enumerate((make(window=30), small_wan)):
        window = {"window": 30}
        (picture,) = noisy(1)
        run = stream(pipeline, **window, image=picture if image else None)
        latents = latents_of(run, 3)
        run.set_prompt(PROMPT, "cut")
        after: Any = latents
        if kind == "file":
            after = tmp_path / f"{number}.safetensors"
            save_latents(after, latents, fps=8)
        made = stream(pipeline, **window, after=after)
        run.engine.apply(run.session)
        made.session.generator.set_state(run.snapshot().random)
        ours, theirs = made.snapshot(), run.snapshot()
        assert torch.equal(ours.cache.keys, theirs.cache.keys) and ours.cache.rows == theirs.cache.rows
        for _ in range(2):
            assert torch.equal(next(made), next(run))


@pytest.mark.parametrize(("first", "chunk"), [(1, 3), (3, 3), (2, 1)])
def test_a_regenerated_video_is_as_long_as_it_was(make: Make, first: int, chunk: int) -> None:
    pipeline = make(first=first, chunk=chunk, clip_frames=first + 2 * chunk, timesteps=(1000,))
    for count in (1, 2, 4, 5, 13, 14, 27):
        made = list(stream(pipeline, source=iter(noisy(count))))
        assert sum(len(frames) for frames in made) == count
        assert len(made[0]) == min(count, pixel_frames(first))


def test_a_length_cuts_a_regenerated_video(small: Pipeline) -> None:
    def endless() -> Iterator[NDArray[np.uint8]]:
        while True:
            yield from noisy(3)

    assert len(torch.cat(list(stream(small, source=endless(), seconds=2)))) == 16


def test_strength_goes_from_the_video_to_the_prompt_alone(small: Pipeline) -> None:
    video = noisy(14)
    source = torch.cat([part.latents for part in parts_of(source_of(small, video))], dim=1)
    kept = latents_of(stream(small, source=video, strength=1e-4))
    torch.testing.assert_close(kept, source, rtol=0, atol=0.01)
    far = [float((latents_of(stream(small, source=video, strength=s)) - source).abs().mean()) for s in (0.05, 0.3, 0.9)]
    assert far == sorted(far)
    free = latents_of(stream(small, source=video, strength=1.0))
    assert torch.equal(free, latents_of(stream(small), 3)), "all of the noise is all that counts"


def test_a_lively_source_is_changed_less_when_asked_for(small: Pipeline) -> None:
    assert adapted(0.8, 0.0) == 0.8 and adapted(0.8, LIVELY) == adapted(0.8, 1.0) == 0.4
    assert 0.4 < adapted(0.8, LIVELY / 2) < 0.8
    still, lively = [noisy(1)[0]] * 14, noisy(14)
    assert motion(still) == 0 and motion(lively) > LIVELY and motion(lively[:1]) == 0
    for video, same in ((still, True), (lively, False)):
        plain = latents_of(stream(small, source=video, strength=0.5))
        careful = latents_of(stream(small, source=video, strength=0.5, adapt=True))
        assert torch.equal(plain, careful) == same
    assert torch.equal(careful[:, 1:].isfinite(), torch.ones_like(careful[:, 1:], dtype=torch.bool))


def test_motion_is_also_seen_from_one_chunk_to_the_next(small: Pipeline) -> None:
    dark, light = np.zeros((32, 48, 3), np.uint8), np.full((32, 48, 3), 255, np.uint8)
    parts = parts_of(source_of(small, [dark, *[light] * 12, *[light] * 12]))
    assert [part.motion for part in parts] == [0, pytest.approx(1 / 12), 0]


def test_a_source_read_from_a_position_continues_as_the_unbroken_one(small: Pipeline) -> None:
    video = noisy(30)
    whole, source = parts_of(source_of(small, video)), source_of(small, video)
    with torch.inference_mode():
        source.next(), source.next()
    rest = parts_of(source.at(source.position))
    assert source.position.frames == 13 and len(rest) == len(whole) - 2 == 2
    for ours, theirs in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours.latents, theirs.latents)
        assert (ours.frames, ours.motion) == (theirs.frames, theirs.motion)


@pytest.mark.parametrize("kind", ["iterator", "camera"])
def test_a_video_that_is_read_once_has_no_second_position(small: Pipeline, kind: str) -> None:
    source = source_of(small, iter(noisy(3)) if kind == "iterator" else noisy(3), live=kind == "camera")
    with pytest.raises(ValueError, match="follows a live video"):
        source.at(source.position)


def test_a_stream_of_a_live_video_cannot_be_rewound_forked_or_saved(small: Pipeline, tmp_path: Path) -> None:
    made = stream(small, source=iter(noisy(27)))
    next(made), next(made)
    state = stream(small, source=noisy(27)).snapshot()
    for back in (made.snapshot, made.fork, lambda: made.restore(state), lambda: made.save(tmp_path / "it")):
        with pytest.raises(ValueError, match="follows a live video cannot be rewound, forked or saved"):
            back()
    assert len(next(made)) == 12


@pytest.mark.parametrize("kind", ["frames", "file"])
def test_a_stream_of_a_stored_video_is_rewound_and_forked(small: Pipeline, tmp_path: Path, kind: str) -> None:
    video: Any = noisy(45)
    if kind == "file":
        video = tmp_path / "it.mp4"
        with VideoWriter(video, fps=8, height=32, width=48) as writer:
            writer.write(np.stack(noisy(45)))
    whole = torch.cat(list(stream(small, source=video)))
    made = stream(small, source=video, rewind_seconds=4.0)
    frames = torch.cat(list(islice(made, 3)))
    fork, back = made.fork(), made.rewind(13)
    assert torch.equal(frames, whole[:25]) and back == 24
    assert torch.equal(torch.cat(list(fork)), whole[25:])
    assert torch.equal(torch.cat(list(made)), whole[1:])


def test_a_prompt_changes_while_a_video_is_followed(small: Pipeline) -> None:
    made, other = (stream(small, source=noisy(27)) for _ in range(2))
    assert torch.equal(next(made), next(other))
    made.prompt = "a blue mammoth"
    assert not torch.equal(next(made), next(other))


def test_a_file_is_read_at_the_rate_of_the_model(small: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "it.mp4"
    with VideoWriter(file, fps=16, height=64, width=96) as writer:
        writer.write(np.stack(noisy(32, 64, 96)))
    assert len(torch.cat(list(stream(small, source=file)))) == 16
    made = stream(small, after=str(file), window=30)
    assert made.snapshot().point.history.frames == 4, "2 seconds are 16 frames, of which 13 fall into chunks"


@pytest.mark.parametrize("kind", ["list", "tuple", "array", "tensor"])
def test_frames_in_memory_can_be_followed_again(small: Pipeline, kind: str) -> None:
    frames = np.stack(noisy(20))
    kinds: dict[str, Any] = {
        "list": list(frames),
        "tuple": tuple(frames),
        "array": frames,
        "tensor": torch.from_numpy(frames),
    }
    made = stream(small, source=kinds[kind], seed=2)
    next(made)
    fork = made.fork()
    assert torch.equal(next(fork), next(made))


@pytest.mark.parametrize("empty", [[], (), np.empty((0, 32, 48, 3), np.uint8), torch.empty(0, 32, 48, 3)])
def test_a_source_without_frames_is_refused_at_once(small: Pipeline, empty: Any) -> None:
    with pytest.raises(ValueError, match="source is empty"):
        stream(small, source=empty)


def test_an_iterator_without_frames_is_refused_when_it_is_read(small: Pipeline) -> None:
    with pytest.raises(ValueError, match="source is empty"):
        next(stream(small, source=iter([])))
