"""A timeline being played is the stream that was told the same."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from causvid.pipeline import Pipeline, Stream
from causvid.timeline import Timeline

SWAN, MAMMOTH, SNOW = "a red swan over the snow", "a blue mammoth", "red snow"


def film(pipeline: Pipeline, *shots: dict[str, Any], **options: Any) -> torch.Tensor:
    values = {"seconds": 7, "shots": [{"at": 0, "prompt": SWAN}, *shots], **options}
    return torch.cat(list(pipeline.play(Timeline.make(**values))))


def stream(pipeline: Pipeline, **options: Any) -> Stream:
    made = pipeline.stream(SWAN, **{"seconds": 7, **options})
    assert isinstance(made, Stream)
    return made


@pytest.mark.parametrize(("at", "chunks"), [(0.125, 1), (1.6, 2), (1.625, 2), (1.7, 3), (3.2, 4)])
def test_a_shot_begins_with_the_first_chunk_that_starts_at_its_time_or_later(
    small: Pipeline, at: float, chunks: int
) -> None:
    told = stream(small)
    frames = list(islice(told, chunks))
    told.set_prompt(MAMMOTH)
    played = film(small, {"at": at, "prompt": MAMMOTH})
    assert torch.equal(played, torch.cat([*frames, *told]))


@pytest.mark.parametrize(("over", "chunks"), [(0.1, 1), (1.5, 1), (3.0, 2), (4.4, 3)])
def test_a_blend_lasts_as_long_as_the_script_says_in_whole_chunks(small: Pipeline, over: float, chunks: int) -> None:
    told = stream(small)
    frames = [next(told)]
    told.set_prompt(MAMMOTH, "blend", chunks=chunks, keep_sink=False)
    played = film(small, {"at": 0.1, "prompt": MAMMOTH, "mode": "blend", "over": over, "keep_sink": False})
    assert torch.equal(played, torch.cat([*frames, *told]))


def test_settings_of_a_timeline_are_those_of_its_stream(small: Pipeline) -> None:
    options: dict[str, Any] = {"seed": 5, "steps": 2, "window": 3, "sink": 2, "height": 48, "policy": "recompute"}
    assert torch.equal(film(small, **options), torch.cat(list(stream(small, **options))))


def test_a_shot_with_an_image_begins_anew_within_the_film(small: Pipeline, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "it.png")
    played = film(small, {"at": 2, "prompt": MAMMOTH, "image": str(tmp_path / "it.png")}, seed=3)
    new = stream(small, image=pixels, seed=4, seconds=31 / 8)
    new.prompt = MAMMOTH
    assert len(played) == 56
    assert torch.equal(played[25:], torch.cat(list(new)))


def test_a_film_ends_where_it_should_and_stays_ended(small: Pipeline) -> None:
    timeline = Timeline.make(seconds=1, shots=[{"at": 0, "prompt": SWAN}, {"at": 0.99, "prompt": MAMMOTH}])
    played = small.play(timeline)
    assert sum(len(frames) for frames in played) == played.frames == played.length == 8
    assert next(played, None) is None
    assert played.stream.prompt == SWAN


def test_a_film_that_follows_a_video_ends_with_it(small: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(14):
        Image.new("RGB", (48, 32), (number * 9, 0, 0)).save(folder / f"{number}.png")
    assert len(film(small, source=str(folder), strength=0.5)) == 14


@pytest.mark.parametrize(
    ("shots", "options", "message"),
    [
        ([{"at": 1, "prompt": " "}], {}, "shots.1: prompt=' ' is empty"),
        ([{"at": 1, "prompt": "red " * 9}], {}, "shots.1: prompt='red red .* has 10 tokens"),
        ([{"at": 1, "prompt": SNOW, "image": "absent.png"}], {}, "shots.1: absent.png does not exist"),
        ([], {"shots": [{"at": 0, "prompt": ""}]}, "^prompt='' is empty"),
        ([], {"seconds": 61}, "seconds=61 is not above 0 and at most 60"),
        ([], {"steps": 2, "sigmas": [1.0, 0.5]}, "steps or sigmas, not both"),
        ([], {"sigmas": [0.5]}, "must start at 1"),
        ([], {"height": 40}, "height=40"),
        ([], {"window": 0, "sink": 0}, "at least one frame"),
        ([], {"source": "absent.mp4"}, "absent.mp4 does not exist"),
        ([], {"after": "absent.mp4"}, "absent.mp4 does not exist"),
    ],
)
def test_what_cannot_be_played_is_refused_before_a_frame_is_made(
    small: Pipeline, shots: Any, options: Any, message: str
) -> None:
    values = {"seconds": 3, "shots": [{"at": 0, "prompt": SWAN}, *shots], **options}
    with pytest.raises((ValueError, OSError), match=message):
        small.play(Timeline.make(**values))
