"""The rich language says what a scene shows in many ways, and nothing that it does not show."""

import re

import pytest

from causvid.worlds.storybook import ATTRIBUTES, FULL, STORYBOOK, Scene, caption, render, sample_scene, words
from causvid.worlds.storybook import rich_words as say
from causvid.worlds.storybook.rich import inflect, plural

SCENES = [sample_scene(STORYBOOK, seed, split="all") for seed in range(3000)]


def told(scene, seed=None, **options):
    return caption(scene, scene.seed if seed is None else seed, language="rich", **options)


def says(text, phrases):
    return any(re.search(rf"\b{re.escape(phrase)}\b", text) for phrase in phrases)


def test_rich_words_cover_the_captions():
    known, texts = set(words(STORYBOOK)), [told(scene) for scene in SCENES]
    for text in texts:
        assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", text), text
        assert len(text.split()) <= 36
    assert {word for text in texts for word in text.replace(",", "").split()} <= known


def test_captions_name_subject_colour_and_place():
    for scene in SCENES[:1000]:
        text = told(scene)
        nouns = say.NOUNS[scene.subject]
        assert says(text, map(plural, nouns) if scene.several else nouns), (text, scene)
        assert says(text, say.COLOURS[scene.colour]), (text, scene)
        prepositions, names, whole = say.PLACES[scene.place]
        assert says(text, [*whole, *(f"{p} {name}" for p in prepositions for name in names)]), (text, scene)


def test_captions_name_motions_that_go_nowhere():
    for scene in SCENES[:1000]:
        if scene.motion in say.MOTIONS and scene.morph is None:
            forms = [
                re.sub(r"\*(\w+)", lambda verb, form=form: inflect(verb[1], form), phrase)
                for phrase in say.MOTIONS[scene.motion]
                for form in ("ing", "s", "")
            ]
            assert says(told(scene), forms), (told(scene), scene)


def test_which_way_it_goes_is_never_said_wrongly():
    for scene in SCENES:
        if scene.motion in ("moving left", "moving right"):
            side, other = scene.motion.split()[1], {"left": "right", "right": "left"}[scene.motion.split()[1]]
            text = told(scene).replace(f"from the {other}", side)
            assert not re.search(rf"\b{other}(ward|wards)?\b", text), text


def test_only_several_of_a_kind_are_plural():
    single = Scene("butterfly", "red", "meadow", "hopping")
    herd = Scene("butterfly", "red", "meadow", "hopping", second=("butterfly", "red"))
    assert not any("butterflies" in told(single, seed) for seed in range(200))
    assert all("butterflies" in told(herd, seed) for seed in range(200))
    assert herd.readable()["subject"] == "butterfly" and herd.several and not single.several


def test_several_of_a_kind_are_drawn():
    single = Scene("swan", "red", "desert", "standing still", seed=4)
    herd = Scene("swan", "red", "desert", "standing still", second=("swan", "red"), seed=4)
    one, two = (render([s], frames=1, height=48, width=80, fps=12)[0, 0] for s in (single, herd))
    columns = [((v[0] > 0.6) & (v[1] < 0.35) & (v[2] < 0.35)).any(dim=0).nonzero() for v in (one, two)]
    wide = [float(c.max() - c.min()) for c in columns]
    assert wide[1] > 1.3 * wide[0] > 0


def test_one_scene_is_said_in_many_ways():
    scene = Scene("woolly mammoth", "brown", "snowy tundra", "moving left")
    texts = {told(scene, seed) for seed in range(300)}
    assert len(texts) > 250
    assert any("venturing" in text for text in texts)


def test_terse_captions_leave_out_all_but_the_subject():
    scene = Scene("fox", "red", "forest", "hopping", "rain", "night", "panning")
    texts = [told(scene, seed, terse=True) for seed in range(400)]
    assert all("fox" in text for text in texts)
    shortest = min(texts, key=lambda text: len(text.split()))
    assert len(shortest.split()) <= 2
    for value in (say.COLOURS["red"], say.PLACES["forest"][2], ["hopping", "hops"]):
        assert 0 < sum(says(text, value) for text in texts) < 350


def test_slips_are_few_and_of_one_word():
    slipped = 0
    for scene in SCENES:
        right, wrong = told(scene).split(), told(scene, slips=True).split()
        assert len(right) == len(wrong)
        different = sum(a != b for a, b in zip(right, wrong, strict=True))
        assert different <= 1
        slipped += different
    assert 0.04 < slipped / len(SCENES) < 0.12


def test_the_rich_world_draws_all_there_is():
    assert sum(scene.several for scene in SCENES) / len(SCENES) == pytest.approx(0.12, abs=0.03)
    assert sum(scene.morph is not None for scene in SCENES) / len(SCENES) == pytest.approx(0.12, abs=0.03)
    assert {scene.subject for scene in SCENES} == set(ATTRIBUTES["subject"])
    assert {scene.weather for scene in SCENES} == set(ATTRIBUTES["weather"]) - {"leaves"}
    for seed in range(300):
        scene, plain = sample_scene(STORYBOOK, seed), sample_scene(FULL, seed)
        assert (scene.place, scene.time, scene.camera) == (plain.place, plain.time, "static")


def test_the_plain_language_refuses_what_it_cannot_say():
    herd = Scene("swan", "red", "lake", "hopping", second=("swan", "red"))
    with pytest.raises(ValueError, match="language='plain'"):
        caption(herd, 0)
    with pytest.raises(ValueError, match="slips"):
        caption(Scene("swan", "red", "lake", "hopping"), 0, slips=True)


@pytest.mark.parametrize(
    "noun, several", [("fox", "foxes"), ("butterfly", "butterflies"), ("snowman", "snowmen"), ("fish", "fish")]
)
def test_nouns_take_their_plural(noun, several):
    assert plural(noun) == several


@pytest.mark.parametrize(
    "verb, gerund, third",
    [("hop", "hopping", "hops"), ("glide", "gliding", "glides"), ("fly", "flying", "flies"), ("go", "going", "goes")],
)
def test_verbs_take_their_forms(verb, gerund, third):
    assert (inflect(verb, "ing"), inflect(verb, "s"), inflect(verb, "")) == (gerund, third, verb)
