"""Rendered scenes in the true layouts of the datasets, whose overlap is known exactly."""
