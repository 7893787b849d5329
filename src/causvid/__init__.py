"""Open streaming video generation: a slow bidirectional teacher trains a fast causal student."""

__version__ = "0.1.0"
