"""The stages of the recipe: their order, what each leaves for later ones, and which of them a preset needs."""

from causvid.preset import Preset

ORDER = ("autoencoder", "classifier", "data", "teacher", "decoder", "pairs", "ode", "dmd")
"""The stages, in the order of the recipe."""
RESULTS = {
    "autoencoder": ("autoencoder.safetensors",),
    "classifier": ("classifier_model",),
    "teacher": ("teacher.safetensors", "text_encoder"),
    "decoder": ("decoder.safetensors",),
    "ode": ("student_ode.safetensors",),
    "dmd": ("student.safetensors",),
}
"""What a finished stage leaves in the run's folder. `data` and `pairs` leave shards, in folders of their names."""
OF_A_WORLD = frozenset({"autoencoder", "classifier", "data", "decoder"})
"""Stages that train on rendered pixels, or store what is rendered."""


def needed(preset: Preset) -> tuple[str, ...]:
    """Return the stages that a preset's whole recipe is made of, in order.

    Left out are stages without settings, those that need a world where there is none, those whose result the preset's
    `start` has, and ODE initialisation where the student begins with the teacher's weights.
    """
    recipe = preset.recipe
    unused = {name for name in ORDER if getattr(recipe, name) is None}
    if recipe.dmd is not None and recipe.dmd.start == "teacher":
        unused |= {"pairs", "ode"}
    if preset.world is None:
        unused |= OF_A_WORLD
    if preset.start is not None:
        unused |= {"classifier", *ORDER[: ORDER.index(preset.start_at)]} - {"data"}
    return tuple(name for name in ORDER if name not in unused)
