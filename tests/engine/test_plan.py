"""A plan names the published sizes, grows where it must, and is the same for a preset and for its files."""

from dataclasses import replace

import pytest
import torch

from causvid.engine.plan import Choice, list_options, sketch_files, sketch_preset
from causvid.models.tiny_autoencoder import TinyAutoencoder
from causvid.preset import load_preset

GB = 1e9


@pytest.fixture(scope="module")
def nano():
    return sketch_files()


def choice_of(sketch, **changes) -> Choice:
    own = sketch.generation
    return replace(Choice(torch.float32, own.window, own.sink, own.height, own.width), **changes)


def test_wans_parts_have_their_published_sizes() -> None:
    sketch = sketch_preset(load_preset("wan-1.3b"), tiny=True)
    parts = sketch.plan(choice_of(sketch, dtype=torch.bfloat16)).parts
    assert parts["transformer"] == pytest.approx(2.84 * GB, rel=0.01)
    assert parts["text encoder"] == pytest.approx(11.36 * GB, rel=0.01)
    assert parts["keys and values of the past"] == pytest.approx(18 * 0.2875 * GB, rel=0.001)


def test_the_files_of_the_built_in_model_are_as_large_as_planned(nano) -> None:
    from causvid.engine.tally import weight_bytes
    from causvid.pipeline import Pipeline

    bundle = Pipeline.from_pretrained().bundle
    parts = nano.plan(choice_of(nano)).parts
    assert nano.dtype == torch.float32
    for name in ("transformer", "autoencoder", "text_encoder"):
        assert parts[name.replace("_", " ")] == weight_bytes(getattr(bundle, name))


def test_what_a_stream_really_keeps_is_what_was_planned(nano) -> None:
    from causvid.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained()
    stream = pipeline.stream("a red swan", seconds=1, steps=1)
    next(stream)
    needed = nano.plan(choice_of(nano)).parts
    cache = stream.snapshot().cache
    assert cache.keys.nbytes + cache.values.nbytes == needed["keys and values of the past"]
    with torch.inference_mode():
        _, state = pipeline.bundle.autoencoder.decode_chunk(stream.latent, None)
    assert sum(memory.untyped_storage().nbytes() for memory in state.memories) == needed["memory of the decoder"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"window": 9}, "keys and values of the past"),
        ({"sink": 4}, "keys and values of the past"),
        ({"height": 128}, "memory of the decoder"),
    ],
)
def test_more_to_remember_takes_more(nano, changes, part) -> None:
    less, more = nano.plan(choice_of(nano)), nano.plan(choice_of(nano, **changes))
    assert more.parts[part] > less.parts[part] and more.peak > less.peak


def test_half_precision_halves_the_parts(nano) -> None:
    full, half = (nano.plan(choice_of(nano, dtype=dtype)).parts for dtype in (torch.float32, torch.bfloat16))
    for name in set(full) - {"memory of the decoder"}:  # a latent comes in fp32 whatever the weights are
        assert full[name] == 2 * half[name]


def test_a_text_encoder_that_is_away_takes_nothing_and_one_read_anew_takes_its_share_while_embedding(nano) -> None:
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
    assert one.parts["memory of the decoder"] == 0


@pytest.mark.parametrize("changes", [{"height": 40}, {"width": 0}, {"window": 0, "sink": 0}, {"sink": -1}])
def test_a_choice_that_cannot_be_is_refused(nano, changes) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        nano.plan(choice_of(nano, **changes))


def test_options_begin_with_the_one_that_changes_nothing() -> None:
    sketch = sketch_preset(load_preset("test"))
    assert isinstance(sketch.autoencoder, TinyAutoencoder)
    own = choice_of(sketch)
    options = list_options(sketch, None, own, dtypes=[torch.float32], windows=[3, 1])
    assert [(option.choice.window, option.choice.text_encoder) for option in options] == [
        (window, where) for window in (3, 1) for where in ("keep", "cpu", "release")
    ]
    assert options[0].choice == own and options[0].peak == sketch.plan(own).peak
