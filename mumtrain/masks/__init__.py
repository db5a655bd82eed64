"""Which patches are hidden: words, shapes, and the masks of a slot, all drawn on the device that computes."""
