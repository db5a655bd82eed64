"""Is the model using its other views: the cross-view gain on held-out samples whose geometry is known.

In: a mix with correspondences, its frames, a model. Out: a GainReport. Every rank measures its share of the samples
(`Probe.measure`), and `summarise` puts the parts together.
"""

from mumtrain.cross_view.measure import Part, Probe, open_probe
from mumtrain.cross_view.report import Cell, GainReport, Headline, summarise

__all__ = ["Cell", "GainReport", "Headline", "Part", "Probe", "open_probe", "summarise"]
