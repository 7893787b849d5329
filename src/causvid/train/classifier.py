"""Stage `classifier`: learn to read attributes off renders, as the measure of generated video."""

from torch import Tensor

from causvid.data.renders import clip_batches, world_of
from causvid.evaluate.classifier import AttributeClassifier, classifier_loss
from causvid.preset import Preset
from causvid.recipe import required
from causvid.seeding import lend_seed, step_generator
from causvid.train.loop import Stage
from causvid.train.objective import Metrics, Micro, make_objective
from causvid.train.run import Run


def vocabularies(preset: Preset) -> dict[str, tuple[str, ...]]:
    """Return what the classifier tells apart: the values that occur in the preset's world."""
    world = world_of(preset)
    return {"subject": world.subjects, "colour": world.colours, "place": world.places, "motion": world.motions}


def classifier_stage(preset: Preset, run: Run) -> Stage:
    """Train on rendered clips."""
    config = required(preset.recipe.classifier, "classifier")
    with lend_seed(step_generator(run.seed, "classifier weights", 0)):
        model = AttributeClassifier(vocabularies(preset), frames=config.frames)
    model.to(run.device)
    draw = clip_batches(preset, config, seed=run.seed, device=run.device)

    def loss(micro: Micro) -> tuple[Tensor, Metrics]:
        pixels, scenes = draw(micro.noise)
        labels = {name: value.to(run.device) for name, value in model.labels([s.readable() for s in scenes]).items()}
        return classifier_loss(model, pixels, labels, generator=micro.noise), {}

    return Stage(
        name="classifier",
        steps=config.steps,
        settings=config.lasting(),
        modules={"model": model},
        objectives=[make_objective("classifier", loss, list(model.parameters()), config)],
        finish=lambda: model.save(run.folder / "classifier_model"),
    )
