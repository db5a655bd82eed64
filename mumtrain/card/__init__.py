"""The card of a run: what was trained, on what, how it went, and how to do it again."""

from mumtrain.card.write import card, write_card

__all__ = ["card", "write_card"]
