import pytest
import torch

from causvid.models.autoencoder import pixel_frames
from causvid.models.autoencoder_loss import autoencoder_loss, moment_divergence, reconstruction_loss
from causvid.models.tiny_autoencoder import AutoencoderConfig, TinyAutoencoder

CONFIGS = {
    "narrow": AutoencoderConfig(
        encoder_widths=(8, 8, 12, 16),
        decoder_widths=(16, 12, 8, 8),
        blocks=1,
        decoder_blocks=(1, 2, 3),
        patch=2,
        encoder_space=(True, True, False),
        decoder_space=(False, True, True),
        padding="first",
    ),
    "deep": AutoencoderConfig(
        encoder_widths=(8, 12, 12, 16), decoder_widths=(16, 12, 12, 8), blocks=2, padding="first"
    ),
}
CONFIGS["overlapping"] = CONFIGS["narrow"].model_copy(update={"shortcut": True, "overlap": True})
CONFIGS["magnifying"] = CONFIGS["narrow"].model_copy(update={"magnify": 2, "enlarge_width": 6})
SIZES = [(48, 80), (64, 112)]
CHUNKINGS = [(1, 3, 3), (2, 4, 1), (1, 1, 1, 1, 1, 1, 1)]


@pytest.fixture(params=CONFIGS)
def autoencoder(request):
    return trained(CONFIGS[request.param]).eval().requires_grad_(False)


def trained(config):
    """Make an autoencoder whose convolutions say something, as one beside a shortcut does not from the start."""
    torch.manual_seed(0)
    autoencoder = TinyAutoencoder(config)
    if config.shortcut:
        for layer in (autoencoder.encoder[-1], autoencoder.finish.last):
            torch.nn.init.normal_(layer.weight, std=0.05)
            layer.bias.data.normal_(0, 0.1)
    if autoencoder.enlarge is not None:
        torch.nn.init.normal_(autoencoder.enlarge.last.weight, std=0.05)
    return autoencoder


def last_layer(autoencoder):
    if autoencoder.enlarge is not None:
        return autoencoder.enlarge.last
    return autoencoder.finish.last if autoencoder.finish is not None else autoencoder.decoder[-1]


def cells(autoencoder, height, width):
    return height // autoencoder.spatial_factor, width // autoencoder.spatial_factor


def relative_error(a, b):
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm())


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("chunks", CHUNKINGS)
def test_streamed_encoding_is_whole_encoding(autoencoder, height, width, chunks):
    pixels = noise(2, pixel_frames(sum(chunks)), 3, height, width)
    whole = autoencoder.encode(pixels)
    assert whole.shape == (
        2,
        sum(chunks),
        16,
        height // autoencoder.spatial_factor,
        width // autoencoder.spatial_factor,
    )
    parts, state, start = [], None, 0
    for chunk in chunks:
        stop = start + 4 * chunk - (3 if state is None else 0)
        latent, state = autoencoder.encode_chunk(pixels[:, start:stop], state)
        parts.append(latent)
        start = stop
    assert relative_error(torch.cat(parts, 1), whole) < 1e-5


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("chunks", CHUNKINGS)
def test_streamed_decoding_is_whole_decoding(autoencoder, height, width, chunks):
    latent = (
        4 * noise(2, sum(chunks), 16, height // autoencoder.spatial_factor, width // autoencoder.spatial_factor) - 2
    )
    whole = autoencoder.decode(latent)
    assert whole.shape == (2, pixel_frames(sum(chunks)), 3, height, width)
    parts, state = [], None
    for part in latent.split(chunks, dim=1):
        pixels, state = autoencoder.decode_chunk(part, state)
        parts.append(pixels)
    assert [part.shape[1] for part in parts] == [4 * chunk - (3 if i == 0 else 0) for i, chunk in enumerate(chunks)]
    assert relative_error(torch.cat(parts, 1), whole) < 1e-5


@pytest.mark.parametrize("height, width", SIZES)
def test_a_later_pixel_frame_does_not_change_earlier_latents(autoencoder, height, width):
    pixels = noise(1, 13, 3, height, width)
    latent = autoencoder.encode(pixels)
    for frame in (1, 4, 5, 12):
        changed = pixels.clone()
        changed[:, frame] = 1 - changed[:, frame]
        first = (frame + 3) // 4
        other = autoencoder.encode(changed)
        assert relative_error(other[:, :first], latent[:, :first]) < 1e-6
        assert relative_error(other[:, first], latent[:, first]) > 1e-4


@pytest.mark.parametrize("height, width", SIZES)
def test_a_later_latent_frame_does_not_change_earlier_pixels(autoencoder, height, width):
    latent = noise(1, 4, 16, *cells(autoencoder, height, width))
    pixels = autoencoder.reconstruct(latent)
    for frame in (1, 3):
        changed = latent.clone()
        changed[:, frame] += 1
        first = 4 * frame - 3
        other = autoencoder.reconstruct(changed)
        assert relative_error(other[:, :first], pixels[:, :first]) < 1e-6
        assert relative_error(other[:, first], pixels[:, first]) > 1e-4


def test_clips_of_a_batch_do_not_mix(autoencoder):
    pixels = noise(3, 5, 3, 32, 48)
    latent = autoencoder.encode(pixels)
    assert relative_error(autoencoder.encode(pixels[1:2]), latent[1:2]) < 1e-5
    assert relative_error(autoencoder.decode(latent[2:]), autoencoder.decode(latent)[2:]) < 1e-5


def test_a_stream_may_be_continued_twice_from_one_state(autoencoder):
    latent = noise(1, 6, 16, 4, 6)
    _, state = autoencoder.decode_chunk(latent[:, :3], None)
    before = [memory.clone() for memory in state.memories]
    first, _ = autoencoder.decode_chunk(latent[:, 3:], state)
    second, _ = autoencoder.decode_chunk(latent[:, 3:], state)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, state.memories, strict=True))


def test_decoding_clamps_what_reconstruct_leaves(autoencoder):
    last = last_layer(autoencoder)
    last.bias.data += torch.tensor([5.0, -5.0]).repeat(len(last.bias))[::2]
    latent = noise(1, 2, 16, 4, 6)
    raw = autoencoder.reconstruct(latent)
    assert float(raw.max()) > 1
    assert torch.equal(autoencoder.decode(latent), raw.clamp(0, 1))
    assert torch.equal(autoencoder.decode_chunk(latent, None)[0], raw.clamp(0, 1))


def test_padding_with_the_last_frame_encodes_but_does_not_stream():
    config = CONFIGS["narrow"].model_copy(update={"padding": "last"})
    autoencoder = TinyAutoencoder(config)
    pixels = noise(1, 5, 3, 32, 48)
    assert autoencoder.encode(pixels).shape == (1, 2, 16, 4, 6)
    with pytest.raises(ValueError, match="padding='last' cannot encode a stream"):
        autoencoder.encode_chunk(pixels, None)


def published_shapes():
    """Names and shapes that TAEHV's model has for `taew2_1`, into which that file loads."""
    shapes = {}

    def block(name, width):
        for i, inputs in ((0, 2 * width), (2, width), (4, width)):
            shapes[f"{name}.conv.{i}.weight"] = (width, inputs, 3, 3)
            shapes[f"{name}.conv.{i}.bias"] = (width,)

    ends = {"encoder.0": (64, 3), "encoder.17": (16, 64), "decoder.1": (256, 16), "decoder.22": (3, 64)}
    for name, (outputs, inputs) in ends.items():
        shapes[f"{name}.weight"] = (outputs, inputs, 3, 3)
        shapes[f"{name}.bias"] = (outputs,)
    for index, merged in ((2, 128), (7, 128), (12, 64)):
        shapes[f"encoder.{index}.conv.weight"] = (64, merged, 1, 1)
        shapes[f"encoder.{index + 1}.weight"] = (64, 64, 3, 3)
        for i in range(3):
            block(f"encoder.{index + 2 + i}", 64)
    for index, width, grown, following in ((3, 256, 256, 128), (9, 128, 256, 64), (15, 64, 128, 64)):
        for i in range(3):
            block(f"decoder.{index + i}", width)
        shapes[f"decoder.{index + 4}.conv.weight"] = (grown, width, 1, 1)
        shapes[f"decoder.{index + 5}.weight"] = (following, width, 3, 3)
    return shapes


def test_the_default_configuration_has_the_published_names_and_shapes():
    with torch.device("meta"):
        autoencoder = TinyAutoencoder(AutoencoderConfig())
    assert {name: tuple(value.shape) for name, value in autoencoder.state_dict().items()} == published_shapes()
    assert autoencoder.spatial_factor == 8
    assert autoencoder.latent_channels == 16


def test_half_precision_weights_take_and_give_the_type_of_the_input(autoencoder):
    pixels = noise(1, 5, 3, 32, 48)
    expected = autoencoder.decode(autoencoder.encode(pixels))
    half = autoencoder.to(torch.bfloat16)
    found = half.decode(half.encode(pixels))
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 0.05


def test_frame_counts():
    assert [pixel_frames(f) for f in (1, 2, 9, 21)] == [1, 5, 33, 81]
    with pytest.raises(ValueError, match="latent_frames=0 is not at least 1"):
        pixel_frames(0)


def test_errors_name_the_value_and_what_was_expected(autoencoder):
    with pytest.raises(ValueError, match=f"height=65 is not a multiple of {autoencoder.spatial_factor}"):
        autoencoder.encode(noise(1, 5, 3, 65, 80))
    with pytest.raises(ValueError, match="width=84 is not a multiple of"):
        autoencoder.encode(noise(1, 5, 3, 64, 84))
    with pytest.raises(ValueError, match="frames=4 is not 1 plus a multiple of 4"):
        autoencoder.encode(noise(1, 4, 3, 32, 48))
    _, state = autoencoder.encode_chunk(noise(1, 1, 3, 32, 48), None)
    with pytest.raises(ValueError, match="frames=5 is not a multiple of 4"):
        autoencoder.encode_chunk(noise(1, 5, 3, 32, 48), state)
    with pytest.raises(ValueError, match="does not continue"):
        autoencoder.encode_chunk(noise(1, 4, 3, 32, 64), state)
    with pytest.raises(ValueError, match=r"\[batch, frames, 16, height, width\]"):
        autoencoder.decode(noise(1, 2, 4, 8, 8))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder_space": (True, True, False)}, "scale by different factors"),
        ({"decoder_time": (False, False, True)}, "scales time by 2, expected 4"),
        ({"depth": 3}, "depth"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**change)


def test_moment_divergence_is_the_gaussian_one():
    mean, variance = torch.tensor([0.0, 1.0, -0.5]), torch.tensor([1.0, 0.25, 4.0])
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(moment_divergence(mean, variance), expected)


def test_the_term_of_motion_prefers_many_small_steps_to_one_jump():
    still = torch.zeros(1, 5, 3, 8, 8)
    ramp = torch.linspace(0, 0.4, 5).view(1, 5, 1, 1, 1).expand_as(still)
    stairs = torch.tensor([0.0, 0.0, 0.4, 0.4, 0.4]).view(1, 5, 1, 1, 1).expand_as(still)
    assert torch.isclose(reconstruction_loss(ramp, still)[1]["motion"], torch.tensor(0.01))
    assert torch.isclose(reconstruction_loss(stairs, still)[1]["motion"], torch.tensor(0.04))
    without, weighed = (reconstruction_loss(stairs, still, motion=weight)[0] for weight in (0.0, 5.0))
    assert torch.isclose(weighed - without, torch.tensor(5 * 0.04))


def test_the_term_of_energy_asks_for_as_much_motion_wherever_it_goes_and_for_none_where_all_stands_still():
    def crossing(step: int, *, row: int = 2) -> torch.Tensor:
        """A white column that moves a pixel a frame, or stands still."""
        clip = torch.zeros(1, 5, 3, 16, 16)
        for t in range(5):
            clip[:, t, :, row, 5 + step * t] = 1
        return clip

    def energy(reconstruction: torch.Tensor, pixels: torch.Tensor) -> float:
        without, weighed = (reconstruction_loss(reconstruction, pixels, energy=weight)[0] for weight in (0.0, 5.0))
        measured = reconstruction_loss(reconstruction, pixels)[1]["energy"]
        torch.testing.assert_close(weighed - without, 5 * measured)
        return float(measured)

    moving, still = crossing(1), crossing(0)
    assert energy(moving, moving) == energy(still, still) == 0
    assert energy(crossing(1, row=3), moving) == 0, "a row beside it"
    assert energy(still, moving) == pytest.approx(energy(moving, still)) and energy(still, moving) > 0
    assert energy(moving.mean(dim=1, keepdim=True).expand_as(moving), moving) == pytest.approx(energy(still, moving))
    assert energy(crossing(1, row=13), moving) > energy(still, moving), "motion elsewhere is wrong twice"


@pytest.mark.parametrize("name", ["narrow", "overlapping", "magnifying"])
def test_loss_reaches_every_parameter_and_repeats_for_a_seed(name):
    autoencoder = trained(CONFIGS[name])
    pixels = noise(2, 5, 3, 32, 48)
    losses = []
    for _ in range(2):
        loss, metrics = autoencoder_loss(autoencoder, pixels, noise=0.2, generator=torch.Generator().manual_seed(3))
        losses.append(loss)
    loss.backward()
    assert torch.equal(losses[0], losses[1])
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in autoencoder.parameters() if p.requires_grad)
    assert not any(value.requires_grad for value in metrics.values())
    with pytest.raises(ValueError, match="noise=-1"):
        autoencoder_loss(autoencoder, pixels, noise=-1, generator=torch.Generator())
