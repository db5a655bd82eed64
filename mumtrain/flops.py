"""What a batch costs: floating-point operations of one forward and backward pass.

In: a Config, a number of sequences and of views. Out: operations, counted as torch's FlopCounterMode counts them: two
for a multiplication and its addition, in matrix products alone.
"""

from __future__ import annotations

from mumtrain.config import Config, TowerConfig, num_kept

__all__ = ["slot_flops"]

# operations of a product with the weights of a layer, for each weight and token: forward, and backward the gradients
# of the tokens and of the weights
_LAYER = 3 * 2

# pixels need no gradient
_FIRST_LAYER = 2 * 2

# of attention, for each pair of tokens and each channel: two products forward; backward the scores again, and two
# gradients each of the scores' product and of the values', as in a kernel that keeps no matrix of scores
_ATTENTION = (2 + 5) * 2


def slot_flops(config: Config, num_sequences: int, num_views: int) -> int:
    """Return the operations of a forward and backward pass over `num_sequences` sequences of `num_views` views.

    Norms, activations, rotations, the loss and the optimiser do not count: they are few.
    """
    model = config.model
    num_patches, values = (config.data.size // model.patch) ** 2, 3 * model.patch**2
    kept = num_kept(num_patches, config.mask.ratio)
    view = _FIRST_LAYER * kept * values * model.encoder.width
    view += model.encoder.depth * _block(model.encoder, 1 + kept)
    view += _LAYER * (1 + kept) * model.encoder.width * model.decoder.width
    view += _LAYER * (num_patches - kept) * model.decoder.width * values
    # the decoder's blocks see in turn the tokens of one view and those of all views
    num_global = model.decoder.depth // 2
    view += (model.decoder.depth - num_global) * _block(model.decoder, 1 + num_patches)
    sequence = num_views * view + num_global * _block(model.decoder, num_views * (1 + num_patches))
    return num_sequences * sequence


def _block(tower: TowerConfig, num_tokens: int) -> int:
    # four square matrices of attention, and eight of the MLP, which is four times as wide inside
    return _LAYER * 12 * num_tokens * tower.width**2 + _ATTENTION * num_tokens**2 * tower.width
