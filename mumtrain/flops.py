"""What a batch costs: floating-point operations of one forward and backward pass.

In: a Config, a number of sequences and of views. Out: operations, counted as torch's FlopCounterMode counts them: two
for a multiplication and its addition, in matrix products alone.
"""

from __future__ import annotations

from mumtrain.config import Config, TowerConfig
from mumtrain.mask_rules import num_kept, read_kinds, read_references, view_ratios

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

    Norms, activations, rotations, the loss and the optimiser do not count: they are few. Where the slot draws the kind
    of its masks or the number of its whole views, it is the mean over what it may draw; activations that are computed
    again count once.
    """
    kinds = read_kinds(config.mask.kind, config.mask.ratio)
    least, most = read_references(config.mask.references).bounds(num_views)
    draws = [(kind, whole) for kind in kinds for whole in range(least, most + 1)]
    total = 0
    for kind, whole in draws:
        ratios = view_ratios(config.mask.view_ratios, kind.ratio, num_views - whole) + [0.0] * whole
        total += _sequence(config, ratios, kind.is_exact)
    return num_sequences * total // len(draws)


def _sequence(config: Config, ratios: list[float], is_exact: bool) -> int:
    # of a sequence whose views have these ratios of hidden patches
    model = config.model
    N, values, V = (config.data.size // model.patch) ** 2, 3 * model.patch**2, len(ratios)
    special = int(model.class_token) + model.registers
    drops = model.hidden_tokens == "dropped"
    kept = [num_kept(N, ratio) if drops else N for ratio in ratios]
    encoder, decoder = model.encoder, model.decoder
    total = _FIRST_LAYER * sum(kept) * values * encoder.width
    total += _tower(encoder, [special + number for number in kept], model.encoder_attention == "alternating")
    predicted = sum(N - num_kept(N, ratio) for ratio in ratios) if is_exact else V * N
    values *= 2 if model.confidence else 1
    if model.decoder_attention == "none":
        return total + _LAYER * predicted * encoder.width * values
    total += _LAYER * sum(special + number for number in kept) * encoder.width * decoder.width
    if model.decoder_attention == "cross":
        total += decoder.depth * (_block(decoder, special + N) + _cross(decoder, special + N, special + N))
    else:
        total += _tower(decoder, [special + N] * V, model.decoder_attention == "alternating")
    return total + _LAYER * predicted * decoder.width * values


def _tower(tower: TowerConfig, num_tokens: list[int], alternates: bool) -> int:
    # blocks that see in turn the tokens of one view and those of all views, or those of one view always
    num_global = tower.depth // 2 if alternates else 0
    return num_global * _block(tower, sum(num_tokens)) + (tower.depth - num_global) * sum(
        _block(tower, number) for number in num_tokens
    )


def _block(tower: TowerConfig, num_tokens: int) -> int:
    # four square matrices of attention, and eight of the MLP, which is four times as wide inside
    return _LAYER * 12 * num_tokens * tower.width**2 + _ATTENTION * num_tokens**2 * tower.width


def _cross(tower: TowerConfig, num_tokens: int, num_memory: int) -> int:
    # queries and projection of the tokens, keys and values of the memory
    weights = _LAYER * 2 * (num_tokens + num_memory) * tower.width**2
    return weights + _ATTENTION * num_tokens * num_memory * tower.width
