"""Stage `reader`: a small network that reads attributes off latents, and so learns what pictures show.

How far its layers are apart for the clean latents that a teacher predicts and for the true ones is a perceptual loss.

Letters: B batch, F latent frames, C channels, h w latent rows and columns, n values of one attribute.
Source: PixelGen (2602.02493), which compares predictions of x0 by the layers of VGG and DINO, at lower noise only; a
network trained on the set itself takes their place.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from causvid.data.renders import world_of
from causvid.data.storybook import StorybookDataset, stored_scenes
from causvid.evaluate.classifier import IGNORED, labels_of
from causvid.flow import randn_like
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import lend_seed, step_generator
from causvid.train.classifier import cross_entropies
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective, autocast
from causvid.train.run import Run, load_weights, save_weights

DISTURBED = 0.3
"""Of a channel's deviation: the most noise that it learns to read through, since predictions are never clean."""


class LatentReader(nn.Module):
    """Convolutions over latent frames, one at a time, then heads that see means and maxima of places.

    vocabularies: attribute → its values, in the order of the labels. width: channels of the first layer.
    """

    def __init__(self, channels: int, vocabularies: Mapping[str, Sequence[str]], *, width: int) -> None:
        super().__init__()
        self.vocabularies = vocabularies
        self.scale = nn.BatchNorm2d(channels, affine=False)
        shapes = ((channels, width, 1), (width, width, 2), (width, 2 * width, 1), (2 * width, 2 * width, 2))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer), nn.GELU())
            for inner, outer, stride in shapes
        )
        self.heads = nn.ModuleDict({name: nn.Linear(4 * width, len(values)) for name, values in vocabularies.items()})

    def look(self, frames: Tensor) -> Iterator[Tensor]:
        """Yield what every layer makes of standardised latents `[B, C, h, w]`."""
        for layer in self.layers:
            frames = layer(frames)
            yield frames

    def forward(self, latents: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Read latents of single frames `[B, C, h, w]`: attribute → logits `[B, n]`; noise: added, standardised."""
        *_, seen = self.look(self.scale(latents) + noise)
        features = torch.cat((seen.amax((2, 3)), seen.mean((2, 3))), dim=1)
        return {name: head(features) for name, head in self.heads.items()}


def reader_stage(preset: Preset, run: Run) -> Stage:
    """Train on frames of the encoded clips that the teacher is trained on, and what can be named in their scenes."""
    config = required(preset.recipe.reader, "reader")
    model = new_reader(preset, run).train()
    folder = run.folder / "data"
    latents = StorybookDataset.open(preset, folder, device=run.device).latents
    words = [scene.readable() for scene in stored_scenes(preset, folder)]
    all_labels = {name: every.to(run.device) for name, every in labels_of(model.vocabularies, words).items()}

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        generator, device = micro.noise, run.device
        clip, frame = (
            torch.randint(end, (config.batch,), generator=generator, device=generator.device).to(device)
            for end in (len(latents), config.frames)
        )
        frames = latents[clip, frame].float()
        level = DISTURBED * torch.rand((config.batch, 1, 1, 1), generator=generator, device=device)
        with autocast(device):
            logits = model(frames, level * randn_like(frames, generator))
        labels = {name: every[clip] for name, every in all_labels.items()}
        subject = labels["subject"]
        right = (logits["subject"].argmax(1) == subject).sum() / (subject != IGNORED).sum().clamp(min=1)
        return cross_entropies(logits, labels), {"subject": right}

    objective = Objective("reader", loss, {"model": model}, config)
    return Stage(
        "reader",
        config.steps,
        config.lasting(),
        finish=lambda: save_weights(objective.state(model), run.result("reader")),
        objectives=[objective],
    )


def new_reader(preset: Preset, run: Run) -> LatentReader:
    """Make an untrained reader of what a single frame of a preset's world shows."""
    world, width = world_of(preset), required(preset.recipe.reader, "reader").width
    vocabularies = {"subject": world.subjects, "colour": world.colours, "place": world.places}
    with lend_seed(step_generator(run.seed, "reader weights", 0)):
        model = LatentReader(preset.transformer.out_channels, vocabularies, width=width)
    return model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def trained_reader(preset: Preset, run: Run) -> LatentReader:
    """Return the reader that stage `reader` trained, frozen."""
    model = new_reader(preset, run)
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
