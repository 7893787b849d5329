"""Actions of a player as words: the motion that a prompt names is replaced, and all else left as it was typed."""

import re
from collections.abc import Callable

from .phrases import MOTION_PHRASES, PLACE_PHRASES, TRAVEL_VERBS

ACTIONS: dict[str, tuple[str, ...]] = {
    "left": ("moving left",),
    "right": ("moving right",),
    "hop": ("hopping", "floating"),
    "spin": ("spinning",),
    "stop": ("standing still", "spinning"),
}
"""What a player can do, and the motions that show it, the best first."""

_TRAVEL = "|".join(sorted({"moving", "travelling", "going", "walking", "running", "flying", *TRAVEL_VERBS.values()}))
_STILL = sorted({phrase for phrases in MOTION_PHRASES.values() for phrase in phrases}, key=len, reverse=True)
_MOTION = re.compile(
    rf"\b(?:(?:{_TRAVEL})(?: to the| in)? (?:left|right|circles)|{'|'.join(_STILL)}|{_TRAVEL})\b", re.IGNORECASE
)
_PLACES = sorted({phrase for phrases in PLACE_PHRASES.values() for phrase in phrases}, key=len, reverse=True)
_PLACE = re.compile(rf"\b(?:{'|'.join(_PLACES)})\b|,", re.IGNORECASE)


def steer(prompt: str, action: str, *, known: Callable[[str], bool] = lambda phrase: True) -> str:
    """Return the prompt with the motion of an action.

    known: whether the model knows the words of a motion; where it knows none of the action's, the best is said.

    Raises:
        ValueError: for an unknown action.
    """
    if action not in ACTIONS:
        raise ValueError(f"action={action!r}: expected one of {', '.join(ACTIONS)}")
    phrases = [MOTION_PHRASES[motion][0] for motion in ACTIONS[action]]
    phrase = next(filter(known, phrases), phrases[0])
    if _MOTION.search(prompt):
        return _MOTION.sub(phrase, prompt, count=1)
    place = _PLACE.search(prompt)
    if place is None or place.start() == 0:
        return f"{prompt.rstrip(' ,.')} {phrase}"
    return f"{prompt[: place.start()].rstrip()} {phrase} {prompt[place.start() :]}".replace(" ,", ",")
