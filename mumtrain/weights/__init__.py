"""Weights in and out: checkpoints, released MuM files and other projects' layouts.

In: a checkpoint, a run's folder, an exported file or a released `.pth`. Out: encoders and models, or files that others
load.
"""

from mumtrain.weights.export import Exported, export
from mumtrain.weights.init import Initialised, initialise_from
from mumtrain.weights.load import LoadedModel, load_encoder, load_model

__all__ = ["Exported", "Initialised", "LoadedModel", "export", "initialise_from", "load_encoder", "load_model"]
