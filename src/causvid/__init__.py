"""Open streaming video generation: a slow bidirectional teacher trains a fast causal student."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from causvid.pipeline import Pipeline

__all__ = ["Pipeline", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `Pipeline` when it is asked for, so that `import causvid` stays quick."""
    if name == "Pipeline":
        from causvid.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module 'causvid' has no attribute {name!r}")
