"""What a user asks for becomes frames, levels and sizes that make it."""

import pytest

from causvid.engine.limits import latent_size, layout, memory, pixel_length, student_sigmas
from causvid.models.autoencoder import pixel_frames
from causvid.preset import load_preset


@pytest.mark.parametrize("preset", ["nano", "wan-1.3b"])
def test_chunks_make_at_least_the_frames_asked_for_and_less_than_a_chunk_more(preset: str) -> None:
    own = load_preset(preset).generation
    for length in range(1, 60):
        sizes = layout(own, length)
        assert sizes[0] == own.first and set(sizes[1:]) <= {own.chunk}
        assert length <= pixel_frames(sum(sizes))
        assert len(sizes) == 1 or pixel_frames(sum(sizes[:-1])) < length


def test_seconds_are_frames_at_the_models_rate_and_one_at_least() -> None:
    own = load_preset("nano").generation
    assert pixel_length(own, 2.5) == 30 and pixel_length(own, 1e-9) == 1


def test_none_is_the_models_own() -> None:
    own = load_preset("nano").generation
    assert memory(own, None, None) == {"window": own.window, "sink": own.sink}
    assert latent_size(own, None, None, factor=8, patch=2) == [own.height // 8, own.width // 8]
    assert len(student_sigmas(own, None, None)) == len(own.timesteps)
