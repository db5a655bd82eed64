"""Features of many images into one HDF5 file, and pictures of their principal components.

In: a trained model, and images or the frames of a catalog. Out: `features`, which the command `mumtrain features` is.
"""

from mumtrain.features.extract import Features, features

__all__ = ["Features", "features"]
