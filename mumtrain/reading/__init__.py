"""From a frame of a mix to a view: its bytes, the part that is decoded, and the processes that do it."""
