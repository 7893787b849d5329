"""One masked pass is the cached passes, and nothing leaks: across chunks, frames, prompts or a batch."""

import dataclasses

import pytest
import torch

from causvid.config import TransformerConfig
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.chunks import chunk_layout
from causvid.nn.visibility import FULL, Visibility

CONFIG = TransformerConfig(dim=24, heads=2, layers=2, ffn_dim=40, text_dim=10, in_channels=4, out_channels=4)
SIZES = [(6, 10), (4, 2)]
LAYOUTS = [(1, 3), (2, 2)]
PASTS = {
    "chunk-causal": (None, 0),
    "window": (3, 0),
    "window and sink": (4, 2),
    "sink longer than the window": (2, 3),
    "sink alone": (0, 2),
}


def make(config: TransformerConfig = CONFIG, seed: int = 0) -> Transformer:
    """A transformer in which every weight matters: the output layer of a fresh one is silent."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    return model.eval().requires_grad_(False)


def draw(frames: int, size: tuple[int, int] = (4, 6), *, batch: int = 2, channels: int = 4, seed: int = 1):
    """Latents `[B, F, C, h, w]` and their levels `[B, F]`."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, channels, *size, generator=g), torch.rand(batch, frames, generator=g)


def prompt(model: Transformer, batch: int = 2, seed: int = 2) -> TextKeys:
    g = torch.Generator().manual_seed(seed)
    return model.encode_text(torch.randn(batch, 5, model.config.text_dim, generator=g))


def new_cache(model: Transformer, x: torch.Tensor, window: int, sink: int = 0):
    return model.new_cache(batch=len(x), height=x.shape[-2], width=x.shape[-1], window=window, sink=sink)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def model() -> Transformer:
    return make()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize("past", PASTS)
def test_one_masked_pass_is_the_cached_passes(model, size, first, chunk, past):
    window, sink = PASTS[past]
    frames = first + 5 * chunk
    x, sigma = draw(frames, size)
    text = prompt(model)
    masked = model(x, sigma, text, visibility=Visibility(first=first, chunk=chunk, window=window, sink=sink))
    cache = new_cache(model, x, frames if window is None else window, sink)
    done = 0
    for n in chunk_layout(frames, first, chunk):
        part = slice(done, done + n)
        read = model(x[:, part], sigma[:, part], text, cache=cache)
        written = model(x[:, part], sigma[:, part], text, cache=cache, commit=True)
        assert torch.equal(read, written)
        assert distance(read, masked[:, part]) < 1e-5
        done += n


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
@pytest.mark.parametrize("past", PASTS)
def test_teacher_forcing_in_one_pass_is_denoising_after_a_clean_past(model, size, first, chunk, past):
    window, sink = PASTS[past]
    frames = first + 5 * chunk
    clean, _ = draw(frames, size, seed=3)
    noisy, sigma = draw(frames, size)
    text = prompt(model)
    v = Visibility(first=first, chunk=chunk, window=window, sink=sink, teacher_forcing=True)
    masked = model(torch.cat((clean, noisy), 1), torch.cat((0 * sigma, sigma), 1), text, visibility=v)[:, frames:]
    cache = new_cache(model, clean, frames if window is None else window, sink)
    done = 0
    for n in chunk_layout(frames, first, chunk):
        part = slice(done, done + n)
        assert distance(model(noisy[:, part], sigma[:, part], text, cache=cache), masked[:, part]) < 1e-5
        model(clean[:, part], 0 * sigma[:, part], text, cache=cache, commit=True)
        done += n


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frames", [1, 7])
def test_full_visibility_is_one_chunk_with_an_empty_cache(model, size, frames):
    x, sigma = draw(frames, size)
    text = prompt(model)
    full = model(x, sigma, text, visibility=FULL)
    assert distance(model(x, sigma, text, cache=new_cache(model, x, frames)), full) < 1e-5
    assert distance(model(x, sigma, text, visibility=Visibility(first=frames, chunk=1)), full) < 1e-5


@pytest.mark.parametrize(("first", "chunk"), LAYOUTS)
def test_a_later_chunk_changes_nothing_before_it(model, first, chunk):
    frames, v = first + 2 * chunk, Visibility(first=first, chunk=chunk)
    x, sigma = draw(frames)
    text = prompt(model)
    before = model(x, sigma, text, visibility=v)
    x[:, -1] += 1
    sigma[:, -1] *= 0.5
    after = model(x, sigma, text, visibility=v)
    torch.testing.assert_close(after[:, :-chunk], before[:, :-chunk], rtol=0, atol=1e-6)
    changed = (after - before).abs().amax(dim=(0, 2, 3, 4))
    assert (changed[-chunk:] > 1e-3).all(), "frames of one chunk must see one another"


@pytest.mark.parametrize(("frame", "seen"), [(0, True), (1, False), (2, False), (3, True), (5, True)])
def test_a_chunk_sees_window_and_sink_and_no_other_past(frame, seen):
    model = make(CONFIG.model_copy(update={"layers": 1}))  # with more, the past reaches further through the layers
    v = Visibility(first=1, chunk=2, window=2, sink=1)
    x, sigma = draw(7)
    text = prompt(model)
    before = model(x, sigma, text, visibility=v)
    x[:, frame] += 1
    change = (model(x, sigma, text, visibility=v) - before)[:, 5:].abs().amax()
    assert change > 1e-3 if seen else change < 1e-6


def test_every_frame_has_its_own_sigma(model):
    alone = Visibility(first=1, chunk=1, window=0)
    x, sigma = draw(3)
    text = prompt(model)
    together = model(x, sigma, text, visibility=alone)
    for f in range(3):
        assert distance(model(x[:, f : f + 1], sigma[:, f : f + 1], text), together[:, f : f + 1]) < 1e-5
    sigma[:, 1] = 1 - sigma[:, 1]
    change = (model(x, sigma, text, visibility=alone) - together).abs().amax(dim=(0, 2, 3, 4))
    assert change[1] > 1e-3 and change[[0, 2]].max() < 1e-6


def test_the_members_of_a_batch_do_not_mix(model):
    x, sigma = draw(4, batch=3)
    g = torch.Generator().manual_seed(2)
    embedding = torch.randn(3, 5, CONFIG.text_dim, generator=g)
    v = Visibility(first=1, chunk=3)
    together = model(x, sigma, model.encode_text(embedding), visibility=v)
    for i in range(3):
        one = slice(i, i + 1)
        alone = model(x[one], sigma[one], model.encode_text(embedding[one]), visibility=v)
        assert distance(together[one], alone) < 1e-5
    assert distance(together[[1, 0, 2]], together) > 0.1


def test_text_keys_computed_once_serve_every_pass(model):
    x, sigma = draw(4)
    text, before = prompt(model), prompt(model)
    cache = new_cache(model, x, 8)
    for _ in range(3):
        model(x, sigma, text, cache=cache, commit=True)
    for name in (f.name for f in dataclasses.fields(TextKeys)):
        assert all(torch.equal(a, b) for a, b in zip(getattr(text, name), getattr(before, name), strict=True))
    assert torch.equal(model(x, sigma, text), model(x, sigma, prompt(model)))
    assert distance(model(x, sigma, prompt(model, seed=9)), model(x, sigma, text)) > 1e-3
    with pytest.raises(dataclasses.FrozenInstanceError):
        text.keys = ()


def test_one_prompt_serves_a_batch(model):
    x, sigma = draw(2, batch=3)
    one = prompt(model, batch=1)
    many = TextKeys(
        tuple(k.expand(3, -1, -1, -1) for k in one.keys), tuple(v.expand(3, -1, -1, -1) for v in one.values)
    )
    assert distance(model(x, sigma, one), model(x, sigma, many)) < 1e-5


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"dim": 30, "heads": 3, "layers": 1}, (2, 6)),
        ({"dim": 16, "heads": 1, "layers": 3, "in_channels": 3, "out_channels": 5}, (6, 4)),
        ({"patch": 1, "freq_dim": 12, "ffn_dim": 8}, (3, 5)),
        ({"patch": 3, "in_channels": 20, "text_dim": 3}, (9, 6)),
        ({"predicts": "x0"}, (4, 6)),
    ],
)
def test_every_size_comes_from_the_configuration(changes, size):
    config = TransformerConfig.model_validate(CONFIG.model_dump() | changes)
    model = make(config)
    x, sigma = draw(4, size, channels=config.in_channels)
    text = prompt(model)
    out = model(x, sigma, text, visibility=Visibility(first=1, chunk=3))
    assert out.shape == (2, 4, config.out_channels, *size)
    cache = new_cache(model, x, 4)
    parts = [model(x[:, p], sigma[:, p], text, cache=cache, commit=True) for p in (slice(0, 1), slice(1, 4))]
    assert distance(torch.cat(parts, 1), out) < 1e-5


def test_what_is_said_as_x0_is_returned_as_the_velocity_towards_it(model):
    other = make(CONFIG.model_copy(update={"predicts": "x0"}))
    x, sigma = draw(3)
    sigma[0, 0], sigma[1, 2] = 0.0, 1.0
    text = prompt(model)
    x0 = model(x, sigma, text)  # the same weights
    expected = (x - x0) / sigma.clamp_min(0.05)[..., None, None, None]
    torch.testing.assert_close(other(x, sigma, text), expected)


@pytest.mark.parametrize(("window", "sink"), [(3, 0), (2, 1)])
def test_a_stream_does_not_age(model, window, sink):
    """The same chunk for ever: once window and sink are full nothing changes, even beyond 1,024 frames."""
    x, sigma = draw(3, (2, 2), batch=1)
    text = prompt(model, batch=1)
    cache = new_cache(model, x, window, sink)
    outputs = [model(x, sigma, text, cache=cache, commit=True) for _ in range(360)]
    assert cache.frames == 1_080
    settled = outputs[10]
    assert distance(outputs[0], settled) > 1e-3
    assert max(distance(late, settled) for late in outputs[11:]) < 1e-5


def test_gradient_reaches_the_weights_but_not_the_past():
    student = make().requires_grad_(True)
    x, sigma = draw(2)
    text = prompt(student)
    cache = new_cache(student, x, 4)
    student(x, sigma, text, cache=cache, commit=True)
    assert not cache.keys.requires_grad and not cache.values.requires_grad
    student(x, sigma, text, cache=cache).square().mean().backward()
    missing = [
        n for n, p in student.named_parameters() if p.grad is None and "text_in" not in n and "cross_attention" not in n
    ]
    assert not missing
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_a_forward_never_waits_for_a_value():
    """Tensors without values go through every path: no `.item()`, no branch on data."""
    model = make().to("meta")
    x, sigma = (t.to("meta") for t in draw(4))
    text = model.encode_text(torch.empty(2, 5, CONFIG.text_dim, device="meta"))
    assert model(x, sigma, text, visibility=Visibility(first=1, chunk=3, window=1, sink=0)).is_meta
    cache = new_cache(model, x, 3, 2)
    for _ in range(3):
        assert model(x, sigma, text, cache=cache, commit=True).is_meta


def test_weights_of_bfloat16_stay_close_to_fp32(model):
    x, sigma = draw(3)
    g = torch.Generator().manual_seed(2)
    embedding = torch.randn(2, 5, CONFIG.text_dim, generator=g)
    half = make().bfloat16()
    out = half(x.bfloat16(), sigma, half.encode_text(embedding.bfloat16()))
    assert out.dtype == torch.bfloat16
    assert distance(out.float(), model(x, sigma, model.encode_text(embedding))) < 0.05


def test_starting_weights_come_from_the_generator_and_predict_nothing():
    first, again, other = Transformer(CONFIG), Transformer(CONFIG), Transformer(CONFIG)
    for m, seed in ((first, 1), (again, 1), (other, 2)):
        m.initialise(torch.Generator().manual_seed(seed))
    pairs = list(zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.patch_in.weight, other.patch_in.weight)
    x, sigma = draw(2)
    assert first(x, sigma, prompt(first)).abs().max() == 0


def test_calls_that_mean_nothing_are_refused(model):
    x, sigma = draw(3)
    text, cache = prompt(model), new_cache(model, x, 3)
    with pytest.raises(ValueError, match="5x6 is not a multiple of patch=2"):
        model(draw(3, (5, 6))[0], sigma, text)
    with pytest.raises(ValueError, match="sigma has shape"):
        model(x, sigma[:, 0], text)
    with pytest.raises(ValueError, match="visibility or a cache"):
        model(x, sigma, text, visibility=Visibility(first=1, chunk=1), cache=cache)
    with pytest.raises(ValueError, match="commit"):
        model(x, sigma, text, commit=True)


def test_a_cache_of_another_size_is_refused(model):
    x, sigma = draw(2, (4, 6))
    other, _ = draw(2, (4, 4))
    with pytest.raises(ValueError, match="cache"):
        model(x, sigma, prompt(model), cache=new_cache(model, other, 4), commit=True)
    with pytest.raises(ValueError, match="cache"):
        model(x, sigma, prompt(model), cache=new_cache(model, x[:1], 4), commit=True)


def test_prompts_of_another_batch_are_refused(model):
    x, sigma = draw(2, batch=1)
    with pytest.raises(ValueError, match="text"):
        model(x, sigma, prompt(model, batch=2))
