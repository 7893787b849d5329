"""Stage `classifier`: learn to read attributes off renders, as the measure of generated video."""

from torch import Tensor

from causvid.evaluate.classifier import AttributeClassifier, classifier_loss
from causvid.preset import Preset
from causvid.seeding import lend_seed
from causvid.train.loop import Run, Stage, step_generator
from causvid.train.optimizer import adamw, learning_rate, update
from causvid.data.storybook import clip_batches, world_of


def vocabularies(preset: Preset) -> dict[str, tuple[str, ...]]:
    """Return what the classifier tells apart: the values that occur in the preset's world."""
    world = world_of(preset)
    return {"subject": world.subjects, "colour": world.colours, "place": world.places, "motion": world.motions}


def classifier_stage(preset: Preset, run: Run) -> Stage:
    """Train on freshly rendered clips."""
    config = preset.recipe.classifier
    with lend_seed(step_generator(run.seed, "classifier weights", 0)):
        model = AttributeClassifier(vocabularies(preset), frames=config.frames)
    model.to(run.device)
    draw = clip_batches(preset, run, batch=config.batch, frames=config.frames, pool=config.pool)
    parameters = list(model.parameters())
    optimizer = adamw(parameters, config)

    def step(n: int) -> dict[str, Tensor]:
        generator = step_generator(run.seed, "classifier", n, run.device)
        pixels, scenes = draw(generator)
        labels = {name: value.to(run.device) for name, value in model.labels([s.readable() for s in scenes]).items()}
        loss = classifier_loss(model, pixels, labels, generator=generator)
        norm = update(optimizer, loss, parameters, rate=learning_rate(config, n), clip=config.clip)
        return {"loss": loss.detach(), "grad_norm": norm}

    return Stage(
        name="classifier",
        steps=config.steps,
        settings=config.lasting(),
        state={"model": model, "optimizer": optimizer},
        step=step,
        finish=lambda: model.save(run.folder / "classifier_model"),
    )
