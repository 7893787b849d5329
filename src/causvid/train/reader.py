"""Stage `reader`: a small network that reads attributes off latents, and so learns what pictures show and how it moves.

How far its layers are apart for the clean latents that a teacher predicts and for the true ones is a perceptual loss.
How far it misses what captions say, in latents that teacher or student make for them, is a loss too: a reward is its
negative.

Letters: B clips, F latent frames, C channels, h w latent rows and columns, n values of one attribute, D features.
Source: PixelGen (2602.02493), which compares predictions of x0 by the layers of VGG and DINO, at lower noise only; a
network trained on the set itself takes their place.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from causvid.data.renders import world_of
from causvid.data.storybook import TERSE, StorybookDataset, stored_scenes
from causvid.evaluate.classifier import IGNORED, labels_of
from causvid.flow import randn_like
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import lend_seed, step_generator
from causvid.train.classifier import cross_entropies
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective, autocast
from causvid.train.run import Run, load_weights, save_weights

MOTION = "motion"
"""The attribute that no single frame shows."""

DISTURBED = 0.3
"""Of a channel's deviation: the most noise that it learns to read through, since predictions are never clean."""

MEASURED = 256
"""Clips that channels' deviations are taken of."""


class LatentReader(nn.Module):
    """Convolutions over latent frames and their changes, then heads that see means and maxima of places.

    vocabularies: attribute → its values, in the order of the labels; `motion` is read off whole clips, all others off
    every frame. width: channels of the first layer.
    """

    def __init__(self, channels: int, vocabularies: Mapping[str, Sequence[str]], *, width: int) -> None:
        super().__init__()
        self.vocabularies = vocabularies
        self.scale = nn.BatchNorm2d(2 * channels, affine=False)
        shapes = ((2 * channels, width, 1), (width, width, 2), (width, 2 * width, 1), (2 * width, 2 * width, 2))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer), nn.GELU())
            for inner, outer, stride in shapes
        )
        self.through_time = nn.Sequential(nn.Conv1d(4 * width, width, 3, padding=1), nn.BatchNorm1d(width), nn.GELU())
        widths = {name: 2 * width if name == MOTION else 4 * width for name in vocabularies}
        self.heads = nn.ModuleDict({n: nn.Linear(widths[n], len(values)) for n, values in vocabularies.items()})

    def look(self, latents: Tensor) -> Iterator[Tensor]:
        """Yield what every layer makes of clips `[B, F, C, h, w]`, `[B F, D, ...]`: of frames beside their changes."""
        changes = torch.cat((torch.zeros_like(latents[:, :1]), latents.diff(dim=1)), dim=1)
        frames = self.scale(torch.cat((latents, changes), dim=2).flatten(0, 1))
        for layer in self.layers:
            frames = layer(frames)
            yield frames

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        """Read clips `[B, F, C, h, w]`: attribute → logits `[B, F, n]`, of motion `[B, n]`, which one frame has not."""
        *_, seen = self.look(latents)
        return self.read(seen, frames=latents.shape[1])

    def read(self, seen: Tensor, *, frames: int) -> dict[str, Tensor]:
        """Read what the last layer made of clips of so many frames, as `forward` does."""
        features = torch.cat((seen.amax((2, 3)), seen.mean((2, 3))), dim=1).unflatten(0, (-1, frames))
        read = {name: head(features) for name, head in self.heads.items() if name != MOTION}
        if MOTION in self.vocabularies and frames > 1:
            moved = self.through_time(features.transpose(1, 2))
            read[MOTION] = self.heads[MOTION](torch.cat((moved.amax(2), moved.mean(2)), dim=1))
        return read


def reader_stage(preset: Preset, run: Run) -> Stage:
    """Train on frames of the encoded clips that the teacher is trained on, and what can be named in their scenes."""
    config = required(preset.recipe.reader, "reader")
    model = new_reader(preset, run).train()
    folder = run.folder / "data"
    latents = StorybookDataset.open(preset, folder, device=run.device).latents
    deviations = latents[:MEASURED].float().std((0, 1, 3, 4))[:, None, None]
    words = [scene.readable() for scene in stored_scenes(preset, folder)]
    all_labels = {name: every.to(run.device) for name, every in labels_of(model.vocabularies, words).items()}

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        generator, device = micro.noise, run.device
        index = torch.randint(len(latents), (config.batch,), generator=generator, device=generator.device).to(device)
        clips = latents[index, : config.frames].float()
        level = DISTURBED * torch.rand((config.batch, 1, 1, 1, 1), generator=generator, device=device)
        with autocast(device):
            logits = model(clips + level * deviations * randn_like(clips, generator))
        labels = {name: every[index] for name, every in all_labels.items() if name in logits}
        metrics = {name: _right(logits[name], labels[name]) for name in ("subject", MOTION) if name in logits}
        return cross_entropies(logits, labels), metrics

    objective = Objective("reader", loss, {"model": model}, config)
    return Stage(
        "reader",
        config.steps,
        config.lasting(),
        finish=lambda: save_weights(objective.state(model), run.result("reader")),
        objectives=[objective],
    )


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of clips whose label, where they have one, is what is read, off all of their frames."""
    read = logits.argmax(-1) if logits.ndim == 2 else logits.softmax(-1).mean(1).argmax(-1)
    return (read == labels).sum() / (labels != IGNORED).sum().clamp(min=1)


def new_reader(preset: Preset, run: Run) -> LatentReader:
    """Make an untrained reader of what a preset's world shows."""
    world, width = world_of(preset), required(preset.recipe.reader, "reader").width
    vocabularies = {"subject": world.subjects, "colour": world.colours, "place": world.places, MOTION: world.motions}
    with lend_seed(step_generator(run.seed, "reader weights", 0)):
        model = LatentReader(preset.transformer.out_channels, vocabularies, width=width)
    return model.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def trained_reader(preset: Preset, run: Run) -> LatentReader:
    """Return the reader that stage `reader` trained, frozen."""
    model = new_reader(preset, run)
    load_weights(model, run.result("reader"), made_by="reader")
    return model.eval().requires_grad_(False)


def compare(reader: LatentReader, predicted: Tensor, latents: Tensor, near: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the perceptual loss of predicted against true latents `[B, F, C, h, w]`, and what is read off the former.

    The loss is the mean of all frames: in every layer, the squared distance of its directions, averaged over places,
    2 - 2 cos of their angle. near: the frames that count, bool `[B, F]`; the others are as if they were predicted well.
    """
    with torch.no_grad():
        true = list(reader.look(latents))
    total = torch.zeros(near.numel(), device=near.device)
    for seen, wanted in zip(reader.look(predicted), true, strict=True):
        alike = functional.cosine_similarity(seen.float(), wanted.float(), dim=1)
        total = total + 2.0 * (1.0 - alike).mean((1, 2))
    return (total * near.flatten()).mean(), reader.read(seen, frames=latents.shape[1])


def told_by_captions(reader: LatentReader, dataset: StorybookDataset, preset: Preset, run: Run) -> dict[str, Tensor]:
    """Return what captions tell of what the reader reads: attribute → int64 [captions], −1 where it may go unsaid.

    Of a terse one, which leaves things out, only the subject counts.
    """
    words = [scene.readable() for scene in stored_scenes(preset, run.folder / "data")]
    told: dict[str, Tensor] = {}
    for name, every in labels_of(reader.vocabularies, words).items():
        own = dataset.phrasings if name == "subject" else dataset.phrasings[:, :TERSE]
        told[name] = torch.full((len(dataset.captions),), IGNORED, device=run.device)
        told[name][own] = every.to(run.device)[:, None].expand_as(own)
    return told


def misreading(
    read: dict[str, Tensor], told: Mapping[str, Tensor], captions: Tensor, *, counts: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of what is read off clips against what their captions tell: a negative reward.

    captions: their numbers `[B]`. counts: the clips that count, bool `[B]`; all by default.
    """
    labels = {name: every[captions] for name, every in told.items() if name in read}
    if counts is not None:
        labels = {name: label.masked_fill(~counts, IGNORED) for name, label in labels.items()}
    return cross_entropies(read, labels)
