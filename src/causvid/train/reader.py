"""Stage `reader`: a small network that reads the words of a caption off latents, and so learns what pictures show.

How far its layers are apart for the clean latents that a teacher predicts and for the true ones is a perceptual loss.

Letters: B batch, F latent frames, C channels, h w latent rows and columns, V pieces of words.
Source: PixelGen (2602.02493), which compares predictions of x0 by the layers of VGG and DINO, at lower noise only; a
network trained on the set itself takes their place.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from causvid.flow import randn_like
from causvid.models.tokenizer import END, PAD
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import lend_seed, step_generator
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective, autocast
from causvid.train.roles import Roles
from causvid.train.run import Run, load_weights, save_weights

DISTURBED = 0.3
"""Of a channel's deviation: the most noise that it learns to read through, since predictions are never clean."""


class LatentReader(nn.Module):
    """Convolutions over one latent frame at a time, then a head that sees means and maxima of all that it is given."""

    def __init__(self, channels: int, words: int, *, width: int) -> None:
        super().__init__()
        self.scale = nn.BatchNorm2d(channels, affine=False)
        shapes = ((channels, width, 1), (width, width, 2), (width, 2 * width, 1), (2 * width, 2 * width, 2))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer), nn.GELU())
            for inner, outer, stride in shapes
        )
        self.head = nn.Linear(4 * width, words)
        nn.init.constant_(self.head.bias, -3.0)  # a caption has few of all words

    def look(self, frames: Tensor) -> Iterator[Tensor]:
        """Yield what every layer makes of standardised latents `[N, C, h, w]`."""
        for layer in self.layers:
            frames = layer(frames)
            yield frames

    def forward(self, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return logits `[B, V]` of the words of latents `[B, F, C, h, w]`; noise: added to them, standardised."""
        frames = self.scale(latents.flatten(0, 1))
        *_, last = self.look(frames if noise is None else frames + noise.flatten(0, 1))
        seen = last.unflatten(0, latents.shape[:2])
        return self.head(torch.cat((seen.amax((1, 3, 4)), seen.mean((1, 3, 4))), dim=1))  # type: ignore[no-any-return]


def reader_stage(preset: Preset, run: Run) -> Stage:
    """Train on the clips and captions that the teacher is trained on."""
    config = required(preset.recipe.reader, "reader")
    roles = Roles(preset, run)
    dataset, text = roles.dataset(), roles.new_text_encoder()
    ids_of = text.tokens(dataset.captions)[0].to(run.device)
    model = new_reader(preset, run, words=len(text.tokenizer)).train()
    marks = [mark for mark in (text.tokenizer.id(PAD), text.tokenizer.id(END)) if mark is not None]

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        generator, device = micro.noise, run.device
        batch = dataset.batch(config.batch, frames=config.frames, generator=generator)
        drawn = torch.randint(config.frames, (config.batch,), generator=generator, device=generator.device)
        latents = batch.latents[torch.arange(config.batch, device=device), drawn.to(device), None]
        told = torch.zeros(config.batch, len(text.tokenizer), device=device).scatter_(1, ids_of[batch.captions], 1.0)
        told[:, marks] = 0.0
        level = DISTURBED * torch.rand((config.batch, 1, 1, 1, 1), generator=generator, device=device)
        noise = level * randn_like(latents, generator)
        with autocast(device):
            logits = model(latents, noise).float()
        found = ((logits > 0) & (told > 0)).sum() / told.sum()
        return functional.binary_cross_entropy_with_logits(logits, told), {"found": found}

    objective = Objective("reader", loss, {"model": model}, config)
    return Stage(
        "reader",
        config.steps,
        config.lasting(),
        finish=lambda: save_weights(objective.state(model), run.result("reader")),
        objectives=[objective],
    )


def new_reader(preset: Preset, run: Run, *, words: int) -> LatentReader:
    """Make an untrained reader of so many pieces of words."""
    width = required(preset.recipe.reader, "reader").width
    with lend_seed(step_generator(run.seed, "reader weights", 0)):
        model = LatentReader(preset.transformer.out_channels, words, width=width)
    return model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def trained_reader(preset: Preset, run: Run, *, words: int) -> LatentReader:
    """Return the reader that stage `reader` trained, frozen."""
    model = new_reader(preset, run, words=words)
    load_weights(model, run.result("reader"), made_by="reader")
    return model.eval().requires_grad_(False)


def perceptual_loss(reader: LatentReader, predicted: Tensor, latents: Tensor, near: Tensor) -> Tensor:
    """Return how far apart predicted and true latents `[B, F, C, h, w]` are to a reader, mean of all frames.

    In every layer, the squared distance of its directions, averaged over places: 2 - 2 cos of their angle. near: the
    frames that count, bool `[B, F]`; the others are as if they were predicted well.
    """
    own = reader.scale(predicted.flatten(0, 1))
    with torch.no_grad():
        true = list(reader.look(reader.scale(latents.flatten(0, 1))))
    total = torch.zeros(near.numel(), device=near.device)
    for seen, wanted in zip(reader.look(own), true, strict=True):
        alike = functional.cosine_similarity(seen.float(), wanted.float(), dim=1)
        total = total + 2.0 * (1.0 - alike).mean((1, 2))
    return (total * near.flatten()).mean()
