"""What is done to streams, measured on streams and a classifier whose answers are known."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from causvid import cli
from causvid.cli import streams as command
from causvid.config import TextConfig
from causvid.evaluate import endless
from causvid.evaluate.adherence import Tally
from causvid.engine.bench import Bench, Case, Said, Steps, pooled, seam
from causvid.evaluate.classifier import AttributeClassifier
from causvid.evaluate.endless import Endless, Past, colours, follow, measure_without_end
from causvid.evaluate.report import MEASURED, REPORT, StreamReport
from causvid.evaluate.streams import (
    measure_changes,
    measure_extension,
    measure_image,
    measure_translation,
    measure_variety,
)
from causvid.models.text import TextEncoder, train_tokenizer
from causvid.pipeline import Pipeline
from causvid.worlds.storybook import ATTRIBUTES, NANO, words

NAMES = ("colour", "subject", "place", "motion")
ATTRIBUTES_SEEN = {name: (f"dark {name}", f"bright {name}") for name in NAMES}
CHUNK = 4


class ByColumn(AttributeClassifier):
    """Read one attribute off each quarter of the frame, dark or bright."""

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        seen = self.features(pixels)
        return {name: torch.stack((0.5 - seen[:, i], seen[:, i] - 0.5), dim=-1) for i, name in enumerate(NAMES)}

    def features(self, pixels: Tensor) -> Tensor:
        return torch.stack([part.mean((1, 2, 3, 4)) for part in pixels.chunk(4, dim=-1)], dim=-1)


def paint(code: str, frames: int, *, start: int = 0, level: int = 0) -> Tensor:
    """Show a digit in each quarter of the frame; every frame is one grey level off the next."""
    row = torch.tensor([60 + 120 * int(digit) for digit in code]).repeat_interleave(2) + level
    flicker = (torch.arange(frames) + start) % 2
    return (row[None] + flicker[:, None]).to(torch.uint8)[:, None, :, None].expand(-1, 4, -1, 3).contiguous()


class Painted(Iterator[Tensor]):
    """A stream that shows its prompt, four digits; a blend shows it after all its chunks, a cut never the subject."""

    def __init__(self, code: str, length: int | None = None, *, level: int = 0, fade: int | None = None) -> None:
        self.code, self.length, self.level, self.fade = code, length, level, fade
        self.frames, self.waiting = 0, (code, 0)

    def __next__(self) -> Tensor:
        if self.length is not None and self.frames >= self.length:
            raise StopIteration
        code, chunks = self.waiting
        if chunks <= 1:
            self.code = code
        self.waiting = (code, chunks - 1)
        faded = self.fade is not None and self.frames >= self.fade
        frames = paint("0000" if faded else self.code, CHUNK, start=self.frames, level=-30 * faded + self.level)
        frames = frames if self.length is None else frames[: self.length - self.frames]
        self.frames += len(frames)
        return frames

    def fork(self) -> "Painted":
        return copy(self)

    def snapshot(self) -> dict[str, Any]:
        return vars(self).copy()

    def restore(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def set_prompt(self, prompt: str, mode: str, *, chunks: int, keep_sink: bool, dissolve: bool) -> None:
        if mode == "cut":
            prompt = prompt[0] + self.code[1] + prompt[2:]
        self.waiting = (prompt, chunks + 1 if mode == "blend" else 1)
        self.level += 20 * (not keep_sink) + 5 * dissolve


class Painter:
    """Makes such streams; '?' in a prompt is what the image shows, or else 0."""

    fps = 8.0

    def stream(
        self,
        prompt: str,
        *,
        seconds: float | None = None,
        seed: int = 0,
        sink: int | None = None,
        image: Any = None,
        after: Any = None,
        source: Any = None,
        strength: float = 0.7,
        adapt: bool = False,
        policy: str = "window",
    ) -> Painted:
        shown = "0000" if image is None else read_off(image)
        code = "".join(old if new == "?" else new for new, old in zip(prompt, shown, strict=True))
        if source is not None:
            strength = strength / 2 if adapt else strength
            old = read_off(source[0])
            code = code if strength >= 0.7 else old
            code = code[:3] + "0" if strength >= 0.9 else code
            return Painted(code, len(source))
        length = None if seconds is None else round(seconds * self.fps)
        level = 0 if after is None else 10
        return Painted(code, length, level=level, fade=32 if sink == 0 else None)

    def generate_batch(self, prompts: Sequence[str], *, seeds: Iterable[int], seconds: float, mode: str) -> Tensor:
        spread = 2 if mode == "student" else 4
        clips = [
            paint(code, round(seconds * self.fps), level=spread * seed)
            for code, seed in zip(prompts, seeds, strict=True)
        ]
        return torch.stack(clips)


def read_off(frame: Any) -> str:
    return "".join(str(int(value > 120)) for value in frame[0, ::2, 0])


def said(code: str) -> Said:
    return Said(code, {name: ATTRIBUTES_SEEN[name][int(digit)] for name, digit in zip(NAMES, code, strict=True)})


def flip(code: str, place: int) -> str:
    return code[:place] + str(1 - int(code[place])) + code[place + 1 :]


def case(code: str) -> Case:
    changes = {name: said(flip(code, place)) for place, name in enumerate(NAMES)}
    return Case(said(code), f"?{code[1]}?{code[3]}", changes, paint(code, 17))


class Shown(list[tuple[str, str, int]]):
    """Remembers picture, caption and length of every video shown."""

    def __call__(self, picture: str, caption: str, video: Tensor) -> None:
        self.append((picture, caption, len(video)))


@pytest.fixture
def bench() -> Bench:
    classifier = ByColumn(ATTRIBUTES_SEEN, width=4, frames=9)
    cases = [case(code) for code in ("1011", "0111", "1101", "0011")]
    return Bench(Painter(), classifier, cases, seed=5, show=Shown())


def test_a_seam_is_counted_in_ordinary_steps() -> None:
    video = torch.arange(0, 24, 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 6, 3).clone()
    assert seam(video, 7) == pytest.approx(1.0)
    video[7:] += 12
    assert seam(video, 7) == pytest.approx(7.0)
    assert seam(video, 6) == pytest.approx(1.0)
    assert [seam(video, 3, stop) for stop in (7, 8)] == pytest.approx([1.0, 7.0])
    video[:] = 9
    video[5:] = 10
    assert seam(video, 5) == pytest.approx(10.0)  # of a still video, an ordinary step counts as a tenth of a level
    assert Steps.of([1.0, 1.0, 2.0, 5.0]) == Steps(median=1.5, tenth=4.1, smooth=Tally(correct=3, count=4))


def test_a_change_of_prompt_is_seen_kept_and_felt_as_it_was_made(bench: Bench) -> None:
    done: list[tuple[int, int]] = []
    result = measure_changes(bench, chunk=CHUNK, progress=lambda count, total: done.append((count, total)))
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert result.before == 16 and result.chunks == 4
    one = Tally(correct=1, count=1)
    assert result.alone_soon.seen == dict.fromkeys(NAMES, one)  # each attribute changed in a quarter of the cases
    assert pooled(result.alone_later.kept) == Tally(correct=12, count=12)
    assert result.unchanged.median == 1.0
    by_way = {(change.mode, change.keep_sink, change.dissolve): change for change in result.changes}
    assert len(by_way) == 8 and {way[2] for way in by_way if way[0] == "cut"} == {False}
    recache, cut, blend = (by_way[mode, True, False] for mode in ("recache", "cut", "blend"))
    assert pooled(recache.soon.seen) == pooled(recache.later.seen) == Tally(correct=4, count=4)
    assert recache.seam.median == pytest.approx(31.0, abs=1.1)  # 120 levels in a quarter of the frame
    assert cut.soon.seen["subject"].accuracy == 0.0 and cut.soon.seen["colour"].accuracy == 1.0
    assert pooled(cut.soon.kept) == Tally(correct=12, count=12)
    assert blend.seam.median == 1.0 and blend.seam.smooth == Tally(correct=4, count=4)
    assert by_way["blend", False, True].seam.median == pytest.approx(25.0, abs=1.1)
    assert result.unchanged_largest.median == 1.0
    assert recache.largest.median == pytest.approx(31.0, abs=1.1)
    assert blend.largest.median == 1.0, "this one jumps when it is over"
    assert [picture for picture, _, _ in cast(Shown, bench.show)] == ["prompt"] * 6


def test_a_blend_is_seen_when_it_is_over(bench: Bench) -> None:
    result = measure_changes(bench, chunk=CHUNK)
    blend = next(change for change in result.changes if change.mode == "blend")
    assert pooled(blend.soon.seen).accuracy == 0.0
    assert pooled(blend.later.seen).accuracy == 1.0


def test_an_extension_tells_the_seam_from_what_encoding_loses(bench: Bench) -> None:
    def darker(clip: Tensor) -> Tensor:
        return clip - 3

    result = measure_extension(bench, "render", lambda seed, case: case.render, recode=darker)
    assert pooled(result.given) == pooled(result.kept) == Tally(correct=16, count=16)
    assert result.encoding.median == pytest.approx(3.0)
    # Ten levels brighter from an even frame to an even one, and three more from the darker copy.
    assert result.seam.median == pytest.approx(10.0) and result.decoded.median == pytest.approx(13.0)
    assert result.of == "render" and cast(Shown, bench.show)[0] == ("extension", "render, gone on with: 1011", 17 + 16)


def test_an_image_gives_what_the_prompt_leaves_open(bench: Bench) -> None:
    result = measure_image(bench, seconds=2.0)
    for readings in (result.image, result.plain, result.image_bare):
        assert pooled(readings) == Tally(correct=16, count=16)
    assert result.plain_bare["colour"] == Tally(correct=2, count=4)
    assert result.plain_bare["place"] == Tally(correct=1, count=4)
    assert result.plain_bare["motion"] == Tally(correct=4, count=4)


def test_the_best_strength_changes_what_is_asked_and_keeps_the_rest(bench: Bench) -> None:
    result = measure_translation(bench, default=0.6)
    assert pooled(result.alone.seen) == Tally(correct=4, count=4)
    by_way = {(one.strength, one.adapt): one for one in result.by_strength}
    assert len(by_way) == 10
    assert pooled(by_way[0.6, False].followed.seen).accuracy == 0.0
    assert pooled(by_way[0.8, False].followed.seen).accuracy == 1.0
    assert pooled(by_way[0.8, True].followed.seen).accuracy == 0.0  # it was halved
    assert by_way[0.9, False].followed.kept["motion"].accuracy == 0.0
    assert by_way[0.9, False].followed.kept["place"].accuracy == 1.0
    assert by_way[0.9, False].balance == pytest.approx(2 * (2 / 3) / (1 + 2 / 3))
    assert (result.best.strength, result.best.adapt) == (0.7, False)


@pytest.mark.parametrize(("mode", "spread"), [("student", 2), ("teacher", 4)])
def test_variety_is_the_mean_distance_of_features(bench: Bench, mode: Any, spread: int) -> None:
    result = measure_variety(bench, mode=mode, seconds=2.0, seeds=3)
    # Three seeds: the distances are 1, 1 and 2 spreads.
    assert result.of_seeds == pytest.approx(4 / 3 * spread / 255, abs=1e-3)
    assert result.of_prompts > 10 * result.of_seeds
    alone = measure_variety(replace(bench, cases=bench.cases[:1]), mode=mode, seconds=2.0, seeds=3)
    assert alone.of_prompts == 0.0


def test_colours_of_known_frames() -> None:
    grey = torch.full((1, 4, 6, 3), 51, dtype=torch.uint8)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 4, 6, 3)
    half = torch.cat((torch.zeros(1, 4, 3, 3), torch.full((1, 4, 3, 3), 255.0)), dim=2).to(torch.uint8)
    expected = torch.tensor([[0, 0, 0.2], [1, 0, 0.2126], [0, 0.5, 0.5]])
    assert torch.allclose(colours(torch.cat((grey, red, half))), expected, atol=1e-4)


def watch(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> None:
    """Let a clock stand still but for the seconds that a chunk takes which ends at so many frames of its stream."""
    now, paint_next = [0.0], Painted.__next__

    def slow(stream: Painted) -> Tensor:
        chunk = paint_next(stream)
        now[0] += seconds(stream.frames)
        return chunk

    monkeypatch.setattr(Painted, "__next__", slow)
    monkeypatch.setattr(endless.time, "perf_counter", lambda: now[0])


def test_a_stream_that_fades_is_told_span_by_span(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = iter((100.0, 100.5))
    monkeypatch.setattr(endless, "resident_mib", lambda: next(memory))
    watch(monkeypatch, lambda frames: 0.05)
    past = Past(name="no sink", policy="window", sink=0)
    told: list[float] = []
    first, last = follow(bench, past, minutes=0.25, told=told.append)
    assert (first.end, last.end) == (7.5, 15.0) and told[-1] == 15.0
    assert (first.memory, last.memory) == (100.0, 100.5)
    assert first.chunk_ms == last.chunk_ms == 50.0 and first.noise_ms == 0.0
    assert first.over_early == last.over_early == 1.0
    assert first.adherence.accuracy == 1.0 and last.adherence == Tally(correct=2, count=8)
    assert last.luminance < first.luminance - 0.2 and last.contrast < 0.01 < first.contrast
    assert cast(Shown, bench.show) == [("endless", "no sink, 0.25 minutes: 1011", endless.STILLS)]
    run = Endless(past=past, spans=(first, last), start={}, end={})
    assert run.growth == pytest.approx((0.005, 0.005))
    unknown = first.model_copy(update={"memory": None})
    assert run.model_copy(update={"spans": (unknown, last)}).growth is None


@pytest.mark.parametrize("slows", [0.0, 0.4])
def test_a_stream_that_slows_down_is_told_from_a_machine_that_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, slows: float
) -> None:
    monkeypatch.setattr(endless, "resident_mib", lambda: None)
    made = count()
    watch(monkeypatch, lambda frames: (1 + slows * (frames > 60)) * (1 + 0.01 * next(made)))
    past = Past(name="sink", policy="window")
    spans = tuple(follow(bench, past, minutes=0.25, told=lambda done: None))
    assert spans[1].chunk_ms > 1.1 * spans[0].chunk_ms
    run = Endless(past=past, spans=spans, start={}, end={})
    assert run.slowing == pytest.approx(slows, abs=0.02)
    brief = spans[0].model_copy(update={"over_early": None})
    assert run.model_copy(update={"spans": (brief, spans[1])}).slowing is None


def test_both_ends_of_a_stream_are_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endless, "resident_mib", lambda: None)
    pasts = (Past(name="sink", policy="window"), Past(name="no sink", policy="window", sink=0))
    done: dict[str, list[tuple[int, int]]] = {}

    def stage(name: str) -> Callable[[int, int], None]:
        return lambda number, total: done.setdefault(name, []).append((number, total))

    result = measure_without_end(bench, replace(bench, cases=bench.cases[:2]), pasts, minutes=0.25, stage=stage)
    stays, fades = result.runs
    assert result.short_minutes == 0.1 and result.edge_seconds == 3.0 and result.prompts == 2
    assert pooled(stays.start) == pooled(stays.end) == Tally(correct=8, count=8)
    assert pooled(fades.start) == Tally(correct=8, count=8) and pooled(fades.end) == Tally(correct=2, count=8)
    assert done["sink"][-1] == (27, 27)


def test_the_command_writes_a_report_with_pictures(
    make: Callable[..., Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attributes = {name: ATTRIBUTES[name] for name in NAMES}
    torch.manual_seed(0)
    AttributeClassifier(attributes, width=4).save(tmp_path / "classifier")
    text = TextConfig(dim=8, layers=1, heads=2, head_dim=4, ffn_dim=12, max_tokens=40)
    encoder = TextEncoder.create(text, train_tokenizer(words(NANO)), generator=torch.Generator().manual_seed(0)).eval()
    bundle = make(timesteps=(1000,), teacher_steps=1, clip_frames=4).bundle
    world = {"world": "nano", "preset": "toy"}
    toy = Pipeline(replace(bundle, text_encoder=encoder, classifier=tmp_path / "classifier", provenance=world))
    monkeypatch.setattr(command, "load_pipeline", lambda model, device: toy)
    measured = []
    for name in ("a", "b"):
        options = ("-o", str(tmp_path / name), "--prompts", "1", "--minutes", "0.1", "--seed", "3")
        with pytest.raises(SystemExit) as caught:
            cli.main(["evaluate", "streams", *options])
        assert caught.value.code == 0
        report = StreamReport.model_validate_json((tmp_path / name / MEASURED).read_text())
        measured.append(report.measured.model_copy(update={"endless": None}))
        assert len(report.measured.variety) == 2 and len(report.measured.endless.runs) == 3
    assert measured[0] == measured[1]
    assert sorted(path.stem for path in (tmp_path / "a").glob("*.png")) == [
        "endless", "extension", "image", "prompt", "video"
    ]  # fmt: skip
    text_written = (tmp_path / "a" / REPORT).read_text()
    assert text_written.count("](") == 5 and "causvid evaluate streams" in text_written
    assert "Model: toy, weights " in text_written and "wrote" in capsys.readouterr().out


def test_a_model_that_cannot_be_measured_is_refused(
    small: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "load_pipeline", lambda model, device: small)
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", "streams", "-o", str(tmp_path / "a")])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "classifier" in err
