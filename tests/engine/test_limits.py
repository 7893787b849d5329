"""What a user asks for becomes frames, levels and sizes that make it."""

from collections.abc import Callable

import pytest

from causvid.config import GenerationConfig
from causvid.engine.limits import latent_size, memory, own_sigmas, pixel_length, student_sigmas, teacher_sigmas
from causvid.preset import load_preset


def test_seconds_are_frames_at_the_models_rate_and_one_at_least() -> None:
    own = load_preset("nano").generation
    assert pixel_length(own, 2.5) == 30 and pixel_length(own, 1e-9) == 1


def test_none_is_the_models_own() -> None:
    own = load_preset("nano").generation
    assert memory(own, None, None) == {"window": own.window, "sink": own.sink}
    assert latent_size(own, None, None, factor=8, patch=2) == [own.height // 8, own.width // 8]
    assert student_sigmas(own, None, None) == own_sigmas(own) and len(own_sigmas(own)) == len(own.timesteps)


def test_fewer_steps_are_chosen_from_the_models_levels() -> None:
    own = load_preset("nano").generation
    levels = own_sigmas(own)
    for steps in range(1, len(levels)):
        fewer = student_sigmas(own, steps, None)
        assert len(fewer) == steps and fewer[0] == 1 and set(fewer) <= set(levels)
    more = student_sigmas(own, len(levels) + 3, None)
    assert len(more) == len(levels) + 3 and sorted(more, reverse=True) == list(more)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda own: pixel_length(own, 0), "seconds=0 is not above 0"),
        (lambda own: pixel_length(own, float("nan")), "seconds=nan is not above 0"),
        (lambda own: memory(own, -1, None), "window=-1 is not from 0"),
        (lambda own: memory(own, None, 10**9), "sink=1000000000 is not from 0"),
        (lambda own: latent_size(own, 7, None, factor=8, patch=2), "height=7 is not a multiple of 16"),
        (lambda own: latent_size(own, None, 16 * 999, factor=8, patch=2), "width=15984 is not a multiple of 16"),
        (lambda own: student_sigmas(own, 0, None), "steps=0 is not from 1"),
        (lambda own: student_sigmas(own, 2, (1.0, 0.5)), "steps or sigmas, not both"),
        (lambda own: student_sigmas(own, None, (0.5,)), "must start at 1"),
        (lambda own: teacher_sigmas(own, 10**6), "steps=1000000 is not from 1"),
    ],
)
def test_what_no_model_can_do_is_refused(call: Callable[[GenerationConfig], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(load_preset("nano").generation)
