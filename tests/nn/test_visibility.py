"""Spans against a definition written as one sentence a pair of frames."""

from typing import Any

import pytest

from causvid.nn.visibility import FULL, Visibility

LAYOUTS = [(1, 3), (3, 3), (2, 2), (1, 1), (4, 2)]
PASTS = [(None, 0), (0, 0), (3, 0), (0, 2), (2, 3), (5, 1), (40, 2)]


def seen(v: Visibility, frames: int) -> dict[int, dict[int, int]]:
    """For every query frame the key frames it sees, each with the position it is seen at."""
    position = v.positions(frames)
    out: dict[int, dict[int, int]] = {}
    for span in v.spans(frames):
        keys = [(k, position[k] + s.shift) for s in span.keys for k in range(s.start, s.stop)]
        assert len({k for k, _ in keys}) == len(keys), "a key frame is seen twice"
        for query in range(span.start, span.stop):
            assert query not in out, "a query frame is in two spans"
            out[query] = dict(keys)
    assert list(out) == list(range(frames)), "queries are not covered in order"
    return out


def chunk_start(frame: int, first: int, chunk: int) -> int:
    return 0 if frame < first else first + (frame - first) // chunk * chunk


def defined(query: int, key: int, first: int, chunk: int, window: int | None, sink: int) -> int | None:
    """The position at which `query` sees `key`, or None."""
    begin, key_begin = chunk_start(query, first, chunk), chunk_start(key, first, chunk)
    if key_begin == begin:
        return key
    if key >= begin:
        return None
    if window is None or key >= begin - window or begin <= window + sink:
        return key
    return key + begin - window - sink if key < sink else None


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), PASTS)
@pytest.mark.parametrize("frames", [1, 2, 10, 17])
def test_spans_are_the_definition(first: int, chunk: int, window: int | None, sink: int, frames: int) -> None:
    v = Visibility(first=first, chunk=chunk, window=window, sink=sink)
    expected = {
        q: {k: at for k in range(frames) if (at := defined(q, k, first, chunk, window, sink)) is not None}
        for q in range(frames)
    }
    assert seen(v, frames) == expected


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize(("window", "sink"), PASTS)
def test_a_noisy_chunk_sees_the_clean_past_and_itself(first: int, chunk: int, window: int | None, sink: int) -> None:
    length = 11
    causal = seen(Visibility(first=first, chunk=chunk, window=window, sink=sink), length)
    forced = seen(Visibility(first=first, chunk=chunk, window=window, sink=sink, teacher_forcing=True), 2 * length)
    for q in range(length):
        assert forced[q] == causal[q], "the clean half is plain causal"
        begin = chunk_start(q, first, chunk)
        assert forced[length + q] == {k if k < begin else length + k: at for k, at in causal[q].items()}


def test_full_visibility_is_everyone_sees_everyone() -> None:
    assert seen(FULL, 7) == {q: {k: k for k in range(7)} for q in range(7)}


@pytest.mark.parametrize(("window", "sink"), [(3, 0), (3, 2), (0, 2), (7, 1)])
def test_no_distance_grows_beyond_window_and_sink(window: int, sink: int) -> None:
    v = Visibility(first=1, chunk=3, window=window, sink=sink)
    for query, keys in seen(v, 100).items():
        begin = chunk_start(query, 1, 3)
        assert begin - min(keys.values()) <= window + sink
        assert len(set(keys.values())) == len(keys), "two frames stand at one position"
        assert set(range(min(sink, query))) <= set(keys), "the sink is lost"


def test_the_last_chunk_may_be_cut_short() -> None:
    whole, cut = (seen(Visibility(first=1, chunk=3), n) for n in (7, 6))
    assert cut == {q: {k: at for k, at in whole[q].items() if k < 6} for q in range(6)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 3}, "window"),
        ({"sink": 1}, "sink"),
        ({"first": 1}, "first"),
        ({"teacher_forcing": True}, "teacher_forcing"),
        ({"chunk": 3}, "first=None"),
        ({"first": 0, "chunk": 3}, "first=0"),
        ({"first": 1, "chunk": 0}, "chunk=0"),
        ({"first": 1, "chunk": 3, "window": -1}, "window=-1"),
        ({"first": 1, "chunk": 3, "sink": 2}, "sink=2 needs a window"),
        ({"first": 1, "chunk": 3, "window": 2, "sink": -1}, "sink=-1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Visibility(**settings)


def test_teacher_forcing_refuses_an_odd_number_of_frames() -> None:
    with pytest.raises(ValueError, match="frames=7 must be even"):
        Visibility(first=1, chunk=3, teacher_forcing=True).positions(7)
