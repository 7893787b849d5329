"""A plan names the published sizes, grows where it must, and is the same for a preset and for its files."""

from dataclasses import replace

import pytest
import torch

from causvid.engine.plan import Choice, sketch_files, sketch_preset
from causvid.loading.spec import ModelSpec
from causvid.preset import load_preset

GB = 1e9


@pytest.fixture(scope="module")
def nano():
    return sketch_files(ModelSpec())


def choice_of(sketch, **changes) -> Choice:
    own = sketch.generation
    return replace(Choice(torch.float32, own.window, own.sink, own.height, own.width), **changes)


def test_wans_parts_have_their_published_sizes() -> None:
    sketch = sketch_preset(load_preset("wan-1.3b"), tiny=True)
    parts = sketch.plan(choice_of(sketch, dtype=torch.bfloat16)).parts
    assert parts["transformer"] == pytest.approx(2.84 * GB, rel=0.01)
    assert parts["text encoder"] == pytest.approx(11.36 * GB, rel=0.01)
    assert parts["keys and values of the history"] == pytest.approx(21 * 0.2875 * GB, rel=0.001)  # window and chunk


def test_the_files_of_the_built_in_model_are_as_large_as_planned(nano) -> None:
    from causvid.engine.memory import weight_bytes
    from causvid.pipeline import Pipeline

    bundle = Pipeline.from_pretrained().bundle
    parts = nano.plan(choice_of(nano)).parts
    assert nano.dtype == torch.float32
    for name in ("transformer", "autoencoder", "text_encoder"):
        assert parts[name.replace("_", " ")] == weight_bytes(getattr(bundle, name))


def test_what_a_stream_really_keeps_is_what_was_planned(nano) -> None:
    from causvid.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(accelerate="none")
    stream = pipeline.stream("a red swan", seconds=1, steps=1)
    next(stream)
    needed = nano.plan(choice_of(nano)).parts
    cache = stream.session.cache
    kept = cache.keys.nbytes + cache.values.nbytes + cache.sink_keys.nbytes
    assert kept == needed["keys and values of the history"]
    with torch.inference_mode():
        _, state = pipeline.bundle.autoencoder.decode_chunk(stream.latent, None)
    assert sum(memory.untyped_storage().nbytes() for memory in state.memories) == needed["state of the decoder"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"window": 9}, "keys and values of the history"),
        ({"sink": 4}, "keys and values of the history"),
        ({"height": 256}, "state of the decoder"),
    ],
)
def test_a_longer_history_or_larger_frame_takes_more(nano, changes, part) -> None:
    less, more = nano.plan(choice_of(nano)), nano.plan(choice_of(nano, **changes))
    assert more.parts[part] > less.parts[part] and more.peak > less.peak


def test_half_precision_halves_the_parts(nano) -> None:
    full, half = (nano.plan(choice_of(nano, dtype=dtype)).parts for dtype in (torch.float32, torch.bfloat16))
    for name in set(full) - {"state of the decoder"}:  # a latent comes in fp32 whatever the weights are
        assert full[name] == 2 * half[name]


def test_a_text_encoder_elsewhere_takes_nothing_a_released_one_its_moment(nano) -> None:
    keep, cpu, release = (nano.plan(choice_of(nano, text_encoder=where)) for where in ("keep", "cpu", "release"))
    here = nano.plan(choice_of(nano, text_encoder="cpu"), separate=False)
    weights, moment = keep.parts["text encoder"], "embedding the prompt"
    assert weights > 0 == cpu.parts["text encoder"] == release.parts["text encoder"]
    assert (cpu.moments[moment], release.moments[moment]) == (0, keep.moments[moment] + weights)
    assert (here.parts, here.moments) == (keep.parts, keep.moments)


def test_a_first_chunk_takes_less_than_a_later_one(nano) -> None:
    one, two, many = (nano.plan(choice_of(nano), chunks=count) for count in (1, 2, None))
    moment = "a pass of the transformer"
    assert one.moments[moment] < two.moments[moment] <= many.moments[moment]
    assert one.parts["state of the decoder"] == 0


@pytest.mark.parametrize("changes", [{"height": 40}, {"width": 0}, {"window": 0, "sink": 0}, {"sink": -1}])
def test_a_choice_that_cannot_be_is_refused(nano, changes) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        nano.plan(choice_of(nano, **changes))
