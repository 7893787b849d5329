"""Stage `classifier`: learn to read attributes off renders, as the measure of generated video."""

from collections.abc import Sequence

import torch
from torch import Tensor

from causvid.config import Preset
from causvid.evaluate.classifier import AttributeClassifier, classifier_loss
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.optimizer import adamw, learning_rate, update
from causvid.train.world import render_batch, world_of
from causvid.worlds.storybook import Scene


def vocabularies(preset: Preset) -> dict[str, tuple[str, ...]]:
    """Return what the classifier tells apart: the values that occur in the preset's world."""
    world = world_of(preset)
    return {"subject": world.subjects, "colour": world.colours, "place": world.places, "motion": world.motions}


def scene_labels(classifier: AttributeClassifier, scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return the labels of scenes; the subject of a morph is not counted, for it has two."""
    return classifier.labels(
        [
            {
                "subject": None if scene.morph else scene.subject,
                "colour": scene.colour,
                "place": scene.place,
                "motion": scene.motion,
            }
            for scene in scenes
        ]
    )


def classifier_stage(preset: Preset, run: Run) -> Stage:
    """Train on freshly rendered clips."""
    config = preset.recipe.classifier
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = AttributeClassifier(vocabularies(preset))
    model.to(run.device)
    parameters = list(model.parameters())
    optimizer = adamw(parameters, config)

    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "classifier", n)
        pixels, scenes = render_batch(
            preset, config.batch, frames=config.frames, generator=generator, device=run.device
        )
        labels = {name: value.to(run.device) for name, value in scene_labels(model, scenes).items()}
        loss = classifier_loss(model, pixels, labels, generator=generator)
        norm = update(optimizer, loss, parameters, rate=learning_rate(config, n), clip=config.clip)
        return {"loss": loss.detach(), "grad_norm": norm}

    return Stage(
        name="classifier",
        steps=config.steps,
        state={"model": model, "optimizer": optimizer},
        step=step,
        finish=lambda: model.save(run.folder / "classifier_model"),
    )
