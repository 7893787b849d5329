"""Stage `classifier`: learn to read attributes off renders, as the measure of generated video."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from causvid.data.renders import clip_batches, world_of
from causvid.evaluate.adherence import BOTH, wanted
from causvid.evaluate.classifier import IGNORED, MIN_FRAMES, AttributeClassifier
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import lend_seed, step_generator
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, Objective
from causvid.train.run import Run
from causvid.worlds.storybook import Scene

TWO = 3.0
"""How often a clip with two subjects, or one that becomes another, is drawn: they are few, and the hardest to read."""


def classifier_stage(preset: Preset, run: Run) -> Stage:
    """Train on rendered clips."""
    config = required(preset.recipe.classifier, "classifier")
    world = world_of(preset)
    vocabularies = {"subject": world.subjects, "colour": world.colours, "place": world.places, "motion": world.motions}
    with lend_seed(step_generator(run.seed, "classifier weights", 0)):
        model = AttributeClassifier(vocabularies, frames=config.frames, rows=config.rows)
    model.to(run.device)
    draw = clip_batches(preset, config, seed=run.seed, device=run.device, weight=_weight)

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        pixels, scenes = draw(micro.noise)
        last = torch.rand(len(scenes), generator=micro.noise, device=micro.noise.device) < 0.5
        short = float(torch.rand((), generator=micro.choices)) < 0.5
        if short:
            pixels = ends(pixels, last=last.tolist())
        labels = seen(wanted(model, [scene.readable() for scene in scenes]), last=last.cpu() if short else None)
        labels = {name: value.to(run.device) for name, value in labels.items()}
        return classifier_loss(model, pixels, labels, generator=micro.noise), {}

    objective = Objective("classifier", loss, {"model": model}, config)
    return Stage(
        "classifier",
        config.steps,
        config.lasting(),
        finish=lambda: objective.averaged(model).save(run.result("classifier")),
        objectives=[objective],
    )


def _weight(scene: Scene) -> float:
    words = scene.readable()
    return TWO if any(words[name] for name in BOTH) else 1.0


def ends(pixels: Tensor, *, last: Sequence[bool]) -> Tensor:
    """Return of each clip `[B, T, 3, H, W]` as few frames as it can be read by, its last or its first."""
    return torch.stack([c[-MIN_FRAMES:] if end else c[:MIN_FRAMES] for c, end in zip(pixels, last, strict=True)])


def seen(labels: Mapping[str, Tensor], *, last: Tensor | None = None) -> dict[str, Tensor]:
    """Turn what `wanted` asks of clips into what a classifier learns: as subject, both of a pair, int64 [B, 2].

    last: bool [B], where clips are seen at one end alone, their last or their first. Only there a morph has a subject.
    """
    subject = labels["subject"][:, None].expand(-1, 2)
    if (pair := labels.get("pair")) is not None:
        subject = torch.where(pair != IGNORED, pair, subject)
    if (morph := labels.get("morph")) is not None and last is not None:
        end = morph.gather(1, last[:, None].long())
        subject = torch.where(end != IGNORED, end, subject)
    return {name: value for name, value in labels.items() if name not in BOTH} | {"subject": subject}


def classifier_loss(
    model: AttributeClassifier, pixels: Tensor, labels: dict[str, Tensor], *, generator: torch.Generator
) -> Tensor:
    """Sum the cross-entropies of all attributes for clips that are disturbed as generated video is.

    Args:
        pixels: float [B, T, 3, H, W] in [0, 1]; of a long clip, a random stretch is used.
        labels: attribute → int64 [B], or [B, k] where k values are as right; −1 leaves one out.
    """
    if set(labels) != set(model.vocabularies):
        raise ValueError(f"labels={sorted(labels)}: expected {sorted(model.vocabularies)}")
    spare = pixels.shape[1] - model.frames
    if spare > 0:
        start = int(torch.randint(spare + 1, (1,), generator=generator, device=generator.device))
        pixels = pixels[:, start : start + model.frames]
    return cross_entropies(model(disturb(model.resize(pixels), generator=generator)), labels)


def cross_entropies(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Sum the cross-entropies of attributes, each the mean of what counts for it.

    Args:
        logits: attribute → [B, n] of clips, or [B, F, n] of all their frames, which their clip's labels are for.
        labels: attribute → [B], or [B, k] where k values are as right; −1 leaves one out.
    """
    losses = []
    for name, target in labels.items():
        read = logits[name].float().reshape(len(target), -1, 1, logits[name].shape[-1])
        right = target.reshape(len(target), 1, -1)
        shape = len(target), read.shape[1], right.shape[2]
        read, right = read.expand(*shape, -1).flatten(0, 2), right.expand(shape).flatten()
        counted = (right != IGNORED).sum().clamp(min=1)
        losses.append(F.cross_entropy(read, right, ignore_index=IGNORED, reduction="sum") / counted)
    return torch.stack(losses).sum()


def disturb(pixels: Tensor, *, generator: torch.Generator) -> Tensor:
    """Blur, shift, tint, flicker and add noise to clips [B, T, 3, H, W] in [0, 1] at random, a little.

    They are never mirrored: left and right are labels.
    """
    B, T, _, H, W = pixels.shape
    drawn = generator.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, device=drawn).to(pixels)

    reach = max(H // 16, 1)
    offsets = torch.randint(2 * reach + 1, (B, 2), generator=generator, device=drawn).to(pixels.device)
    rows = (torch.arange(H, device=pixels.device) + offsets[:, :1] - reach).clamp(0, H - 1)
    columns = (torch.arange(W, device=pixels.device) + offsets[:, 1:] - reach).clamp(0, W - 1)
    clips = torch.arange(B, device=pixels.device)
    x = pixels.permute(0, 3, 4, 1, 2)[clips[:, None, None], rows[:, :, None], columns[:, None, :]]
    x = x.permute(0, 3, 4, 1, 2).contiguous()

    soft = F.avg_pool2d(F.pad(x.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, stride=1).view_as(x)
    x = torch.lerp(x, soft, uniform(0.0, 1.0, B, 1, 1, 1, 1))

    contrast = uniform(0.85, 1.15, B, 1, 1, 1, 1)
    light = uniform(-0.06, 0.06, B, 1, 1, 1, 1) + uniform(-0.02, 0.02, B, 1, 3, 1, 1)
    flicker = uniform(-0.01, 0.01, B, T, 1, 1, 1)
    noise = torch.randn(x.shape, generator=generator, device=drawn).to(x)
    # In place: these are the largest tensors of a training step on a CPU.
    middle = x.mean((1, 2, 3, 4), keepdim=True)
    x.mul_(contrast).add_(middle * (1.0 - contrast) + light + flicker)
    return x.add_(noise.mul_(uniform(0.0, 0.04, B, 1, 1, 1, 1))).clamp_(0.0, 1.0)
