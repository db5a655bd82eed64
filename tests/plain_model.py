"""The models written down slowly: one token, one head and one pair of channels at a time, in float64, without torch.

In: the weights by name, the model's settings, views and which patches are hidden. Out: predictions and loss.
Nothing here is shared with `mumtrain.model`; the formulas are those of the papers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mumtrain.config import ModelConfig

Vector = np.ndarray
# row and column of a patch; None for a special token
Place = tuple[int, int] | None

MEAN = {"imagenet": (0.485, 0.456, 0.406), "half": (0.5, 0.5, 0.5)}
DEVIATION = {"imagenet": (0.229, 0.224, 0.225), "half": (0.5, 0.5, 0.5)}


def bfloat16(x: float) -> float:
    """The nearest number with eight significant bits, of two equally near ones the even one."""
    mantissa, exponent = math.frexp(x)
    return math.ldexp(round(mantissa * 256), exponent - 8)


class PlainModel:
    """A masked autoencoder of the family; `weights` are those of the state dict, as float64 arrays."""

    def __init__(self, weights: Mapping[str, np.ndarray], config: ModelConfig, grid: tuple[int, int]) -> None:
        self.weights, self.config, self.rows, self.columns = weights, config, *grid
        self.num_special = int(config.class_token) + config.registers

    # ---- from pixels to loss

    def patch_values(self, view_CHW: np.ndarray, n: int) -> Vector:
        """The pixels of a patch as they enter the encoder, by row, column and channel."""
        patch = self.config.patch
        top, left = n // self.columns * patch, n % self.columns * patch
        values = []
        for row in range(patch):
            for column in range(patch):
                for channel in range(3):
                    value = float(view_CHW[channel, top + row, left + column]) / 255
                    value -= MEAN[self.config.pixels][channel]
                    values.append(value / DEVIATION[self.config.pixels][channel])
        return np.array(values)

    def target(self, values: Vector) -> Vector:
        """What is to be predicted of a patch."""
        if self.config.target == "raw":
            return values
        mean = values.sum() / len(values)
        variance = ((values - mean) ** 2).sum() / (len(values) - 1)
        return (values - mean) / math.sqrt(variance + 1e-6)

    def predict(self, views_VCHW: np.ndarray, is_hidden: Sequence[Sequence[bool]]) -> dict[tuple[int, int], Vector]:
        """What the head says of each hidden patch n of view v of one sequence, by (v, n)."""
        encoded = self.encode(views_VCHW, is_hidden)
        if self.config.decoder_attention == "none":
            decoded = {v: encoded[v] for v in range(len(encoded))}
        elif self.config.decoder_attention == "cross":
            decoded = self.decode_pair(encoded, is_hidden)
        else:
            decoded = self.decode(encoded, is_hidden)
        found = {}
        for v, tokens in decoded.items():
            for n, hidden in enumerate(is_hidden[v]):
                if hidden:
                    found[v, n] = self.linear("decoder.head", tokens[self.num_special + n])
        return found

    def loss(self, views_BVCHW: np.ndarray, is_hidden: Sequence[Sequence[Sequence[bool]]]) -> float:
        """The loss of a batch of sequences."""
        errors, doubts, num_patches = [], [], 0
        for views, hidden in zip(views_BVCHW, is_hidden, strict=True):
            num_patches += sum(len(of_view) for of_view in hidden)
            for (v, n), predicted in self.predict(views, hidden).items():
                target = self.target(self.patch_values(views[v], n))
                if self.config.confidence:
                    half = len(predicted) // 2
                    c = 1 / (1 + np.exp(-predicted[half:]))
                    errors.append(float(((c + 0.1) * (predicted[:half] - target) ** 2).mean()))
                    doubts.append(float((-np.log(c + 1e-6)).mean()))
                else:
                    errors.append(float(((predicted - target) ** 2).mean()))
        return sum(errors) / len(errors) + 0.1 * sum(doubts) / num_patches

    # ---- encoder and decoders

    def encode(self, views_VCHW: np.ndarray, is_hidden: Sequence[Sequence[bool]]) -> list[list[Vector]]:
        """The encoder's tokens of each view."""
        config, views, places = self.config, [], []
        for view, hidden in zip(views_VCHW, is_hidden, strict=True):
            tokens, where = [], []
            if config.class_token:
                tokens.append(self.weights["encoder.class_token"][0, 0])
            for register in range(config.registers):
                tokens.append(self.weights["encoder.register_token"][0, register])
            where += [None] * len(tokens)
            for n in range(len(hidden)):
                if hidden[n] and config.hidden_tokens == "dropped":
                    continue
                if hidden[n]:
                    token = self.weights["encoder.mask_token"][0, 0]
                else:
                    token = self.linear("encoder.patch_embedding", self.patch_values(view, n))
                tokens.append(token)
                where.append(divmod(n, self.columns))
            views.append(self.with_positions(tokens, where))
            places.append(where)
        views = self.blocks("encoder", config.encoder.depth, views, places, config.encoder_attention == "alternating")
        return [[self.norm("encoder.norm", x) for x in tokens] for tokens in views]

    def laid_out(self, tokens: list[Vector], hidden: Sequence[bool]) -> list[Vector]:
        """The decoder's tokens of a view: all its patches, placeholders for those that never entered the encoder."""
        embedded = [self.linear("decoder.embedding", x) for x in tokens]
        if self.config.hidden_tokens == "replaced":
            full = embedded
        else:
            full, others = embedded[: self.num_special], iter(embedded[self.num_special :])
            for n in range(len(hidden)):
                full.append(self.weights["decoder.mask_token"][0, 0] if hidden[n] else next(others))
        return self.with_positions(full, self.all_places())

    def all_places(self) -> list[Place]:
        patches = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        return [*[None] * self.num_special, *patches]

    def decode(self, encoded: list[list[Vector]], is_hidden: Sequence[Sequence[bool]]) -> dict[int, list[Vector]]:
        views = [self.laid_out(tokens, hidden) for tokens, hidden in zip(encoded, is_hidden, strict=True)]
        places = [self.all_places()] * len(views)
        alternates = self.config.decoder_attention == "alternating"
        views = self.blocks("decoder", self.config.decoder.depth, views, places, alternates)
        return {v: [self.norm("decoder.norm", x) for x in views[v]] for v in range(len(views))}

    def decode_pair(self, encoded: list[list[Vector]], is_hidden: Sequence[Sequence[bool]]) -> dict[int, list[Vector]]:
        """CroCo: the masked view looks at the whole one."""
        masked, whole = (0, 1) if any(is_hidden[0]) else (1, 0)
        x = self.laid_out(encoded[masked], is_hidden[masked])
        memory = self.laid_out(encoded[whole], is_hidden[whole])
        places = self.all_places()
        for number in range(self.config.decoder.depth):
            at = f"decoder.blocks.{number}"
            x = self.add(x, self.self_attention(at, "decoder", x, places, False))
            normed = [self.norm(f"{at}.norm_cross", token) for token in x]
            seen = [self.norm(f"{at}.norm_memory", token) for token in memory]
            cross = f"{at}.cross_attention"
            q = [self.linear(f"{cross}.query", token) for token in normed]
            k = [self.linear(f"{cross}.key", token) for token in seen]
            v = [self.linear(f"{cross}.value", token) for token in seen]
            mixed = self.attention("decoder", q, k, v, places, False)
            x = self.add(x, [self.linear(f"{cross}.projection", token) for token in mixed])
            x = self.add(x, self.mlp(at, x))
        return {masked: [self.norm("decoder.norm", token) for token in x]}

    def blocks(
        self, tower: str, depth: int, views: list[list[Vector]], places: list[list[Place]], alternates: bool
    ) -> list[list[Vector]]:
        for number in range(depth):
            at = f"{tower}.blocks.{number}"
            if alternates and number % 2 == 1:
                together = [x for tokens in views for x in tokens]
                everywhere = [place for where in places for place in where]
                together = self.add(together, self.self_attention(at, tower, together, everywhere, True))
                together = self.add(together, self.mlp(at, together))
                start, parts = 0, []
                for tokens in views:
                    parts.append(together[start : start + len(tokens)])
                    start += len(tokens)
                views = parts
            else:
                attended = [
                    self.add(tokens, self.self_attention(at, tower, tokens, where, False))
                    for tokens, where in zip(views, places, strict=True)
                ]
                views = [self.add(tokens, self.mlp(at, tokens)) for tokens in attended]
        return views

    # ---- layers

    def linear(self, name: str, x: Vector) -> Vector:
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def norm(self, name: str, x: Vector) -> Vector:
        mean = x.sum() / len(x)
        variance = ((x - mean) ** 2).sum() / len(x)
        normed = (x - mean) / math.sqrt(variance + self.config.norm_eps)
        return normed * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def add(self, one: list[Vector], other: list[Vector]) -> list[Vector]:
        return [a + b for a, b in zip(one, other, strict=True)]

    def mlp(self, at: str, tokens: list[Vector]) -> list[Vector]:
        found = []
        for x in tokens:
            inner = self.linear(f"{at}.mlp.expand", self.norm(f"{at}.norm_mlp", x))
            inner = np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in inner])
            found.append(self.linear(f"{at}.mlp.contract", inner))
        return found

    def self_attention(
        self, at: str, tower: str, tokens: list[Vector], places: list[Place], sees_all: bool
    ) -> list[Vector]:
        q, k, v = [], [], []
        for x in tokens:
            for part, values in zip(
                (q, k, v),
                np.split(self.linear(f"{at}.attention.qkv", self.norm(f"{at}.norm_attention", x)), 3),
                strict=True,
            ):
                part.append(values)
        mixed = self.attention(tower, q, k, v, places, sees_all)
        return [self.linear(f"{at}.attention.projection", x) for x in mixed]

    def attention(
        self,
        tower: str,
        queries: list[Vector],
        keys: list[Vector],
        values: list[Vector],
        places: list[Place],
        sees_all: bool,
    ) -> list[Vector]:
        sizes = self.config.encoder if tower == "encoder" else self.config.decoder
        d = sizes.width // sizes.heads
        mixed: list[list[float]] = [[] for _ in queries]
        specials = [i for i, place in enumerate(places) if place is None]
        blank = set()
        if sees_all and self.config.class_token and self.config.global_class_token == "blank":
            # of the special tokens of each view the first one
            blank = {i for i in specials if i == 0 or places[i - 1] is not None}
        for head in range(sizes.heads):
            part = slice(head * d, (head + 1) * d)
            q = [self.turned(x[part], place) for x, place in zip(queries, places, strict=True)]
            k = [self.turned(x[part], place) for x, place in zip(keys, places, strict=True)]
            for i in blank:
                q[i], k[i] = np.zeros(d), np.zeros(d)
            for token in range(len(queries)):
                scores = [math.exp(q[token] @ other / math.sqrt(d)) for other in k]
                total = sum(scores)
                out = np.zeros(d)
                for score, value in zip(scores, values, strict=True):
                    out += score / total * value[part]
                mixed[token] += out.tolist()
        return [np.array(x) for x in mixed]

    # ---- positions

    def turned(self, x: Vector, place: Place) -> Vector:
        """Queries or keys of one head with their pairs of channels turned."""
        if self.config.positions == "absolute":
            return x
        low = self.config.rope_precision == "bfloat16"
        rounded = bfloat16 if low else float
        values = [rounded(value) for value in x.tolist()]
        out = list(values)
        for i, j, angle in self.angles(len(x), place):
            cos, sin = rounded(math.cos(angle)), rounded(math.sin(angle))
            a, b = values[i], values[j]
            out[i] = rounded(rounded(a * cos) - rounded(b * sin))
            out[j] = rounded(rounded(b * cos) + rounded(a * sin))
        return np.array(out)

    def angles(self, d: int, place: Place) -> list[tuple[int, int, float]]:
        """Which channels turn together, and by how much."""
        if self.config.positions == "integer":
            # registers stand at (0, 0) and patches then begin at (1, 1)
            first = 1 if self.num_special else 0
            row, column = (0, 0) if place is None else (place[0] + first, place[1] + first)
            pairs = []
            for start, coordinate in ((0, row), (d // 2, column)):
                for i in range(d // 4):
                    frequency = 100 ** (-2 * i / (d / 2))
                    pairs.append((start + i, start + i + d // 4, coordinate * frequency))
            return pairs
        if place is None:
            return []
        rounded = bfloat16 if self.config.rope_precision == "bfloat16" else float
        angles = []
        for number, length in zip(place, (self.rows, self.columns), strict=True):
            centre = rounded(rounded(2 * rounded((number + 0.5) / length)) - 1)
            for k in range(d // 4):
                period = rounded(100 ** rounded(2 * k / (d / 2)))
                angles.append(rounded(rounded(2 * math.pi * centre) / period))
        return [(i, i + d // 2, angle) for i, angle in enumerate(angles)]

    def with_positions(self, tokens: list[Vector], places: list[Place]) -> list[Vector]:
        """MAE: sines and cosines added to the tokens of patches, those of columns first."""
        if self.config.positions != "absolute":
            return tokens
        return [x if place is None else x + self.sines(len(x), place) for x, place in zip(tokens, places, strict=True)]

    def sines(self, width: int, place: tuple[int, int]) -> Vector:
        quarter, values = width // 4, []
        for coordinate in reversed(place):
            for wave in (math.sin, math.cos):
                for k in range(quarter):
                    values.append(wave(coordinate / 10000 ** (4 * k / width)))
        return np.array(values)
