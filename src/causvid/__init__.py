"""Open streaming video generation: a slow bidirectional teacher trains a fast causal student."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from causvid.engine.request import GenerationRequest
    from causvid.engine.session import SessionState
    from causvid.loading.spec import ModelSpec
    from causvid.pipeline import Pipeline
    from causvid.stream import Stream
    from causvid.timeline import Shot, Timeline

__version__ = "0.1.0"
__all__ = ["GenerationRequest", "ModelSpec", "Pipeline", "SessionState", "Shot", "Stream", "Timeline", "__version__"]

_HOME = {
    "GenerationRequest": "engine.request",
    "ModelSpec": "loading.spec",
    "Pipeline": "pipeline",
    "SessionState": "engine.session",
    "Shot": "timeline",
    "Stream": "stream",
    "Timeline": "timeline",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import causvid` stays quick and needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'causvid' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"causvid.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
