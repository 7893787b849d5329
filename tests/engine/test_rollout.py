"""The few-step causal loop against the same thing written out, without a cache."""

from itertools import islice

import pytest
import torch

from causvid.config import TransformerConfig
from causvid.engine.rollout import commit_chunk, denoise_chunk, predict_x0, rollout
from causvid.flow import add_noise, x0_from_velocity
from causvid.models.transformer import TextKeys, Transformer
from causvid.nn.chunks import chunks
from causvid.nn.visibility import Visibility

CONFIG = TransformerConfig(dim=16, heads=2, layers=2, ffn_dim=24, text_dim=6, in_channels=4, out_channels=4)
SIGMAS = (1.0, 0.9, 0.6)
SIZE = (4, 2)


@pytest.fixture(scope="module")
def model() -> Transformer:
    model, g = Transformer(CONFIG), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.2)
    return model.requires_grad_(False)


@pytest.fixture
def student(model) -> Transformer:
    student = Transformer(CONFIG)
    student.load_state_dict(model.state_dict())
    return student


@pytest.fixture(scope="module")
def text(model):
    return model.encode_text(torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def passes(model):
    """Grows by one with every pass of the model."""
    count: list[int] = []
    hook = model.register_forward_hook(lambda *_: count.append(1))
    yield count
    hook.remove()


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cache_of(model: Transformer, window: int = 4, sink: int = 0):
    return model.new_cache(batch=2, height=SIZE[0], width=SIZE[1], window=window, sink=sink)


def stream(model, text, layout, *, cache=None, seed=7, **options):
    cache = cache_of(model) if cache is None else cache
    return rollout(
        model,
        text,
        cache,
        chunks=layout,
        shape=(2, 4, *SIZE),
        sigmas=options.pop("sigmas", SIGMAS),
        generator=seeded(seed),
        **options,
    )


def noise_of(frames: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(2, frames, 4, *SIZE, generator=seeded(seed))


@pytest.mark.parametrize("layout", [(1, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize(("window", "sink"), [(9, 0), (2, 0), (2, 1)])
def test_a_rollout_is_the_whole_sequence_recomputed_at_every_step(model, text, layout, window, sink):
    streamed = list(stream(model, text, layout, cache=cache_of(model, window, sink)))

    generator = seeded()
    visibility = Visibility(first=layout[0], chunk=layout[1], window=window, sink=sink)
    past = noise_of(0)
    for made, size in zip(streamed, layout, strict=True):
        x = torch.randn(2, size, 4, *SIZE, generator=generator)
        for i, sigma in enumerate(SIGMAS):
            levels = torch.cat((torch.zeros(past.shape[:2]), torch.full((2, size), sigma)), dim=1)
            v = model(torch.cat((past, x), dim=1), levels, text, visibility=visibility)[:, -size:]
            x0 = x - sigma * v
            if i + 1 < len(SIGMAS):
                x = (1 - SIGMAS[i + 1]) * x0 + SIGMAS[i + 1] * torch.randn(x0.shape, generator=generator)
        torch.testing.assert_close(made, x0, rtol=1e-4, atol=1e-4)
        past = torch.cat((past, x0), dim=1)


def test_the_generator_alone_decides_the_video(model, text):
    torch.manual_seed(1)
    first = torch.cat(list(stream(model, text, (1, 3, 3))), dim=1)
    torch.manual_seed(2)
    assert torch.equal(torch.cat(list(stream(model, text, (1, 3, 3))), dim=1), first)
    other = torch.cat(list(stream(model, text, (1, 3, 3), seed=8)), dim=1)
    assert first.shape == (2, 7, 4, *SIZE) and first.isfinite().all()
    assert (other - first).abs().max() > 0.1


@pytest.mark.parametrize("sigmas", [(1.0,), (1.0, 0.5), (1.0, 0.9, 0.8, 0.7)])
def test_n_steps_cost_n_passes_and_one_to_commit(model, text, passes, sigmas):
    for made, _ in enumerate(stream(model, text, (1, 3, 3, 3), sigmas=sigmas), start=1):
        assert len(passes) == made * (len(sigmas) + 1) - 1
    assert len(passes) == 4 * (len(sigmas) + 1) - 1


def test_a_chunk_is_committed_when_the_next_is_asked_for(model, text):
    cache = cache_of(model)
    seen = [cache.frames for _ in stream(model, text, (1, 3, 3), cache=cache)]
    assert seen == [0, 1, 4] and cache.frames == 4


def test_a_rollout_continues_from_the_chunk_before_it(model, text):
    given, generator = noise_of(1), seeded()
    cache = cache_of(model)
    commit_chunk(model, given, text, cache)
    expected = []
    for _ in range(2):
        if expected:
            commit_chunk(model, expected[-1], text, cache)
        x = torch.randn(2, 3, 4, *SIZE, generator=generator)
        expected.append(denoise_chunk(model, x, text, cache, sigmas=SIGMAS, generator=generator))
    for made, chunk in zip(stream(model, text, (3, 3), latest=given), expected, strict=True):
        assert torch.equal(made, chunk)
    assert not torch.equal(next(stream(model, text, (3, 3))), expected[0])


def test_an_endless_layout_outlives_the_window(model, text):
    cache = cache_of(model, window=3, sink=1)
    made = list(islice(stream(model, text, chunks(1, 3), cache=cache), 8))
    assert [len(x[0]) for x in made] == [1, 3, 3, 3, 3, 3, 3, 3]
    assert cache.frames == 19 and cache.filled == 4 and made[-1].isfinite().all()


def test_denoising_reads_and_committing_writes(model, text):
    cache = cache_of(model)
    commit_chunk(model, noise_of(2), text, cache)
    before = cache.state()
    x0 = denoise_chunk(model, noise_of(3), text, cache, sigmas=SIGMAS, generator=seeded())
    after = cache.state()
    assert torch.equal(before.keys, after.keys) and torch.equal(before.values, after.values) and cache.frames == 2
    commit_chunk(model, x0, text, cache)
    assert cache.frames == 5 and cache.filled == 4


def test_a_chunk_is_committed_clean(model, text):
    clean = noise_of(2)
    ours, written = cache_of(model), cache_of(model)
    commit_chunk(model, clean, text, ours)
    with torch.no_grad():
        model(clean, torch.zeros(2, 2), text, cache=written, commit=True)
    assert torch.equal(ours.keys, written.keys) and torch.equal(ours.values, written.values)


def test_a_restored_rollout_continues_as_the_first_time(model, text):
    cache, generator = cache_of(model, window=3, sink=1), seeded()

    def chunk(size: int) -> torch.Tensor:
        x = torch.randn(2, size, 4, *SIZE, generator=generator)
        x0 = denoise_chunk(model, x, text, cache, sigmas=SIGMAS, generator=generator)
        commit_chunk(model, x0, text, cache)
        return x0

    for size in (1, 3, 3):
        chunk(size)
    saved, state = cache.state(), generator.get_state()
    first = [chunk(3), chunk(3)]
    cache.restore(saved)
    generator.set_state(state)
    assert all(torch.equal(a, chunk(3)) for a in first)


def test_each_row_draws_from_its_own_generator(model, text):
    layout = (1, 3, 3)
    together = torch.cat(
        list(
            rollout(
                model,
                text,
                cache_of(model),
                chunks=layout,
                shape=(2, 4, *SIZE),
                sigmas=SIGMAS,
                generator=[seeded(1), seeded(2)],
            )
        ),
        dim=1,
    )
    for row, seed in enumerate((1, 2)):
        alone = rollout(
            model,
            TextKeys(tuple(k[row : row + 1] for k in text.keys), tuple(v[row : row + 1] for v in text.values)),
            model.new_cache(batch=1, height=SIZE[0], width=SIZE[1], window=4, sink=0),
            chunks=layout,
            shape=(1, 4, *SIZE),
            sigmas=SIGMAS,
            generator=[seeded(seed)],
        )
        torch.testing.assert_close(together[row : row + 1], torch.cat(list(alone), dim=1), rtol=1e-5, atol=1e-5)


def test_a_single_step_is_the_prediction_of_x0(model, text):
    x = noise_of(3)
    out = denoise_chunk(model, x, text, cache_of(model), sigmas=(1.0,), generator=seeded())
    assert torch.equal(out, predict_x0(model, x, 1.0, text, cache_of(model)))
    torch.testing.assert_close(out, x - model(x, torch.ones(2, 3), text))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_gradient_is_that_of_the_exit_step_alone(model, student, text, step):
    cache = cache_of(model)
    commit_chunk(model, noise_of(2), text, cache)
    out = denoise_chunk(student, noise_of(3), text, cache, sigmas=SIGMAS, generator=seeded(), grad_step=step)
    out.square().mean().backward()
    grads = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}

    student.zero_grad()
    generator, x = seeded(), noise_of(3)
    for i in range(step):  # the frozen twin walks to the exit
        x0 = predict_x0(model, x, SIGMAS[i], text, cache)
        fresh = torch.randn(x.shape, generator=generator)
        x = add_noise(x0, fresh, torch.full((2, 3), SIGMAS[i + 1]))
    levels = torch.full((2, 3), SIGMAS[step])
    by_hand = x0_from_velocity(x, student(x, levels, text, cache=cache), levels)
    by_hand.square().mean().backward()
    torch.testing.assert_close(out, by_hand)
    assert any(g.abs().max() > 0 for g in grads.values())
    for name, p in student.named_parameters():
        if p.grad is not None:
            assert grads[name].isfinite().all()
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [0, 1])
def test_a_chunk_leaves_at_its_exit_step(model, text, passes, step):
    list(stream(model, text, (1, 3), grad_step=step))
    assert len(passes) == 2 * (step + 2) - 1


def test_backward_through_a_whole_rollout_is_backward_chunk_by_chunk(model, student, text):
    """The cache is written in place between the chunks; no chunk's graph may hold on to it."""
    made = list(stream(student, text, (1, 3, 3, 3), cache=cache_of(model, 2, 1), grad_step=1))
    assert all(x.requires_grad for x in made)
    torch.cat(made, dim=1).square().sum().backward()
    together = {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    for x in stream(student, text, (1, 3, 3, 3), cache=cache_of(model, 2, 1), grad_step=1):
        x.square().sum().backward()
    for name, grad in together.items():
        assert grad.isfinite().all()
        torch.testing.assert_close(grad, student.get_parameter(name).grad, rtol=1e-4, atol=1e-4)


def test_without_gradient_there_is_no_graph(student, text):
    with torch.no_grad():
        assert not any(x.requires_grad for x in stream(student, text, (1, 3), grad_step=1))


def test_an_exit_beyond_the_last_step_is_refused(model, text):
    with pytest.raises(ValueError, match="grad_step=3"):
        denoise_chunk(model, noise_of(1), text, cache_of(model), sigmas=SIGMAS, generator=seeded(), grad_step=3)


def test_in_mixed_precision_passes_without_gradient_cost_the_exit_step_none(student, text):
    """Autocast may keep the weights' casts of a pass without gradient, and with them lose the graph of a later one."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = torch.cat(list(stream(student, text, (1, 3), grad_step=1)), dim=1)
    made.square().mean().backward()
    given = ("text_in", "cross_attention.key", "cross_attention.value")  # the text keys came from elsewhere
    for name, p in student.named_parameters():
        assert any(part in name for part in given) or (p.grad is not None and p.grad.isfinite().all()), name
