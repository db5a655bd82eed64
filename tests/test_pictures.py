"""Pictures of what models do: words and pages, reconstructions of every objective, and where patches look."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata.errors import ConfigError, DecodeError, MumError
from mumtrain.attention import attention, attention_weights, find_meeting, overlaid, read_head, read_point
from mumtrain.checkpoint import save_checkpoint
from mumtrain.config import Config, apply
from mumtrain.drawing import (
    Frame,
    Picture,
    Words,
    draw_page,
    enlarged,
    fitted,
    printable,
    read_square,
    shown_side,
    text_width,
    told_name,
    wrapped,
)
from mumtrain.masks.draw import Group, Masks, draw_masks
from mumtrain.model.autoencoder import MaskedAutoencoder, Prediction, build_model
from mumtrain.model.pixels import normalise, normalise_patches, patchify
from mumtrain.model.positions import rotate
from mumtrain.recipes import recipe
from mumtrain.reconstruct import HIDDEN, reconstruct, reconstruct_views
from tests.conftest import write_picture

SIZE, PATCH = 32, 8

THIN = (
    f"data.size={SIZE}",
    f"model.patch={PATCH}",
    "model.encoder.width=32",
    "model.encoder.depth=4",
    "model.encoder.heads=2",
    "model.decoder.width=24",
    "model.decoder.depth=4",
    "model.decoder.heads=3",
)

KINDS: dict[str, tuple[str, ...]] = {
    "mum": (),
    "blank": ("model.global_class_token=blank", "model.registers=2"),
    "absolute": ("model.positions=absolute",),
    "mae": ("model.decoder_attention=frame", "data.views_min=1", "data.views_max=1"),
    "croco": (
        "model.decoder_attention=cross",
        "data.views_min=2",
        "data.views_max=2",
        "mask.references=1",
        "mask.ratio=0.9",
        "model.class_token=false",
        "model.positions=integer",
    ),
    "muskie": (
        "model.decoder_attention=none",
        "model.hidden_tokens=replaced",
        "model.encoder_attention=alternating",
        "model.registers=4",
        "model.class_token=false",
        "model.confidence=true",
        "model.target=raw",
        "model.pixels=half",
        "model.positions=integer",
        "mask.kind=random:0.9,rectangle,ellipse",
        "mask.references=V/4:V/2",
    ),
}
MEETING = [name for name in KINDS if name != "mae"]


def config_of(kind: str, *sets: str) -> Config:
    return apply(recipe("debug-cpu"), [*THIN, *KINDS[kind], *sets])


def model_of(kind: str, *sets: str) -> MaskedAutoencoder:
    """A model with weights so large that its attention is far from even."""
    model = build_model(config_of(kind, *sets)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each kind, named after it."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        model = model_of(kind)
        save_checkpoint(folder / kind, 7, model, torch.optim.AdamW(model.parameters()), config_of(kind), "digest", {})
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [write_picture(tmp_path / f"{number}.png", 40, 52, seed=number) for number in range(5)]


Page = tuple[list[Any], int, int]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    """The pages that would be drawn, each checked."""
    drawn: list[Page] = []

    def keep(items: Sequence[Any], width: int, height: int, out: Path) -> None:
        assert_tidy(items, width, height)
        drawn.append((list(items), width, height))

    # the package has functions of these names
    for name in ("mumtrain.reconstruct", "mumtrain.attention"):
        monkeypatch.setattr(importlib.import_module(name), "draw_page", keep)
    return drawn


def words_of(page: Page) -> list[str]:
    return [item.text for item in page[0] if isinstance(item, Words)]


def pictures_of(page: Page) -> list[Picture]:
    """The squares of a page."""
    return [item for item in page[0] if isinstance(item, Picture) and item.width == item.height]


def box_of(item: Any) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a picture or a line of words."""
    if isinstance(item, Words):
        width, height = text_width(item.text, item.size), item.size * 160 / 72
        left = item.x - width * {"left": 0, "center": 0.5, "right": 1}[item.align]
        return left, item.y - height / 2, left + width, item.y + height / 2
    return item.left, item.top, item.left + item.width, item.top + item.height


def assert_tidy(items: Sequence[Any], width: int, height: int) -> None:
    """Everything lies on the page; pictures and words do not run into each other."""
    boxes = [box_of(item) for item in items if not isinstance(item, Frame) and getattr(item, "height", 9) > 2]
    for left, top, right, bottom in [*boxes, *(box_of(item) for item in items if isinstance(item, Frame))]:
        assert left >= -0.01
        assert top >= 0
        assert right <= width + 0.01
        assert bottom <= height + 0.01
    by_top = sorted(boxes, key=lambda box: box[1])
    for number, one in enumerate(by_top):
        for other in by_top[number + 1 :]:
            if other[1] >= one[3]:
                break
            assert one[2] <= other[0] + 0.01 or other[2] <= one[0] + 0.01, (one, other)


# ---- words and pages


@given(st.text(max_size=80), st.floats(0, 400), st.sampled_from([6.5, 8.0, 10.0]))
@settings(max_examples=60, deadline=None)
def test_words_fit_their_room(text: str, room: float, size: float) -> None:
    short = fitted(text, room, size)
    assert short == printable(text) or "…" in short
    assert text_width(short, size) <= room or short in ("…", "")
    if text_width(printable(text), size) <= room:
        assert short == printable(text)
    elif len(short) > 1:
        assert printable(text).startswith(short.partition("…")[0])
        assert printable(text).endswith(short.partition("…")[2])
    lines = wrapped(text, room, size)
    assert all(text_width(line, size) <= room or line == "…" for line in lines)
    if not any("…" in line for line in lines):
        assert " ".join(lines).split() == printable(text).split()


def test_words_are_measured_as_they_are_drawn() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=160)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in ("WWWW iiii", "P1180160.JPG (whole)", "Größe, καλός"):
        drawn = figure.text(0, 0, text, fontsize=9, fontfamily="DejaVu Sans").get_window_extent(renderer).width
        assert text_width(text, 9) == pytest.approx(drawn, rel=0.03, abs=2)
    assert printable("a\u65e5\udcff\n$b$") == "a???$b$"
    assert printable("a\xa0b\u200b\u202e") == "a?b??"
    assert fitted("0123456789.jpg", text_width("0123….jpg", 8) + 1, 8) == "0123….jpg"
    assert told_name("run", Path("run/checkpoints/step-00000007.pt")) == "run, step-00000007"
    assert told_name("run-step-00000007", Path("step-00000007.pt")) == "run-step-00000007"


@pytest.mark.parametrize("size", [7, 32, 224])
def test_each_pixel_of_a_page_is_where_it_was_put(size: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(size)
    side = shown_side(size)
    squares = [rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(6)]
    places = [(37 + number % 3 * (side + 8), 51 + number // 3 * (side + 8)) for number in range(6)]
    width, height = 37 + 3 * (side + 8) + 5, 51 + 2 * (side + 8) + 3
    items: list[Any] = [Picture(s, *place, side, side) for s, place in zip(squares, places, strict=True)]
    # with whatever settings of the user's own
    strange = {"font.family": "serif", "savefig.bbox": "tight", "figure.dpi": 50, "text.usetex": True}
    with matplotlib.rc_context(strange):
        draw_page([*items, Words(r"$\frac{$ 100% _a", width / 2, 25)], width, height, tmp_path / "page.png")
    drawn = cv2.imread(str(tmp_path / "page.png"))[..., ::-1]
    assert drawn.shape == (height, width, 3)
    covered = np.zeros((height, width), bool)
    for square, (left, top) in zip(squares, places, strict=True):
        part = slice(top, top + side), slice(left, left + side)
        assert np.array_equal(drawn[part], enlarged(square, side // size))
        covered[part] = True
    covered[10:40] = True  # words
    assert (drawn[~covered] == 255).all()
    assert (drawn[10:40] != 255).any()


def test_large_squares_are_averaged_and_frames_drawn_over(tmp_path: Path) -> None:
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    assert shown_side(512) == 300
    items = [Picture(board, 0, 0, 300, 300), Frame(100, 40, 60, 30, "cyan")]
    draw_page(items, 320, 310, tmp_path / "page.png")
    drawn = cv2.imread(str(tmp_path / "page.png"))[..., ::-1].astype(int)
    assert abs(drawn[100:290, 10:290].mean() - 127.5) < 2
    assert np.ptp(drawn[150:250, 50:250]) < 160  # no moiré of black and white
    assert (drawn[40, 105:155] == (0, 255, 255)).all(-1).mean() > 0.9
    assert (drawn[45:65, 100] == (0, 255, 255)).all(-1).mean() > 0.9
    for name, start in (("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("A.JPG", b"\xff\xd8")):
        draw_page(items, 320, 310, tmp_path / "out" / name)
        assert (tmp_path / "out" / name).read_bytes().startswith(start)
    with pytest.raises(ConfigError, match=r"100000 x 300 pixels.*fewer"):
        draw_page(items, 100_000, 300, tmp_path / "wide.png")


def test_squares_are_the_middle_of_the_upright_image(tmp_path: Path) -> None:
    from PIL import Image

    # red above green above blue, stored lying on its side: 6 means a quarter turn to the right makes it upright
    upright = np.zeros((96, 32, 3), np.uint8)
    for third, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        upright[32 * third : 32 * third + 32] = colour
    upright[40:56, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.rot90(upright)).save(path, exif=exif, quality=100, subsampling=0)
    square = read_square(path, 32)
    assert square.shape == (32, 32, 3)
    assert abs(square.astype(int) - upright[32:64]).mean() < 4


# ---- reconstructions


class Oracle:
    """Stands in for a model: it knows the truth, or predicts what it is told, `offset` added to every value."""

    def __init__(self, target: str, pixels: str, offset: float = 0.0, confident: bool = False) -> None:
        self.patch, self.target, self.pixels = PATCH, target, pixels
        self.offset, self.confident = offset, confident

    def predict(self, patches: torch.Tensor, grid: tuple[int, int], masks: Masks) -> Prediction:
        truth = normalise_patches(patches).patches if self.target == "normalised" else patches
        # the number of the patch in its sequence, and of the value in its patch
        B, V, N, P = patches.shape
        trust = (torch.arange(V * N).view(1, V * N, 1) + torch.arange(P) % 3 / 4).expand(B, -1, -1) / (V * N)
        values = [truth.flatten(1, 2) + self.offset, trust]
        if masks.hidden_BH is not None:
            values = [torch.stack([v[b, masks.hidden_BH[b]] for b in range(B)]) for v in values]
        return Prediction(values[0], values[1] if self.confident else None)


def views_of(B: int, V: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (B, V, 3, SIZE, SIZE), np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_predictions_stand_where_they_belong(kind: str, seed: int) -> None:
    config = config_of(kind)
    views = views_of(2, 2 if kind == "croco" else 4, seed)
    pixels = views.float() / 255
    B, V = views.shape[:2]
    oracle: Any = Oracle(config.model.target, config.model.pixels, confident=True)
    found = reconstruct_views(oracle, views, config.mask, seed=seed)
    # who predicts the truth reconstructs the input
    torch.testing.assert_close(found.whole, pixels, rtol=0, atol=2e-5)
    masks = draw_masks(config.mask, B, V, (4, 4), seed=seed, step=0, slot=0)
    assert torch.equal(found.is_hidden, masks.is_hidden_BVN)
    assert found.confidence is not None
    oracle.offset = 0.3
    off = reconstruct_views(oracle, views, config.mask, seed=seed)
    std = np.array([0.5] * 3 if config.model.pixels == "half" else [0.229, 0.224, 0.225])[:, None, None]
    for b in range(B):
        for v in range(V):
            for n in range(16):
                rows, columns = (slice(k * PATCH, (k + 1) * PATCH) for k in divmod(n, 4))
                inside = (b, v, slice(None), rows, columns)
                true = pixels[inside].numpy()
                if not masks.is_hidden_BVN[b, v, n]:
                    assert np.array_equal(found.seen[inside], true)
                    assert np.array_equal(off.whole[inside], true)
                    continue
                assert (found.seen[inside] == HIDDEN).all()
                assert found.confidence[b, v, rows, columns].numpy() == pytest.approx((v * 16 + n + 0.25) / (V * 16))
                shift = 0.3 * std
                if config.model.target == "normalised":
                    # deviations of the patch as it enters the encoder, over all its values
                    entering = (true - np.array([0.485, 0.456, 0.406])[:, None, None]) / std
                    shift = shift * entering.std(ddof=1)
                wanted = np.clip(true + shift, 0, 1)
                assert off.whole[inside].numpy() == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_models_use_the_other_views_or_not(kind: str) -> None:
    config, model = config_of(kind), model_of(kind)
    views = views_of(1, 2, 3)
    found = reconstruct_views(model, views, config.mask)
    assert (found.confidence is not None) == (kind == "muskie")
    masked = 0 if bool(found.is_hidden[0, 0].any()) else 1
    other = views.clone()
    other[:, 1 - masked] = 255 - other[:, 1 - masked]
    changed = reconstruct_views(model, other, config.mask)
    assert torch.equal(found.is_hidden, changed.is_hidden)
    hidden = found.seen[:, masked] == HIDDEN
    differs = (changed.whole - found.whole)[:, masked].abs()
    assert float(differs[~hidden].max()) == 0
    assert (float(differs[hidden].max()) > 1e-4) == (kind != "mae")
    for part in (found.seen, found.whole):
        assert float(part.min()) >= 0
        assert float(part.max()) <= 1


TITLES = {
    "mum": "4 views together, 75% of the patches hidden",
    "mae": "4 views, each by itself, 75% of the patches hidden",
    "croco": "2 views together, 1 of them whole, 93.8% of the other's patches hidden",  # 15 of 16
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_says_what_it_shows(kind: str, runs: Path, images: list[Path], pages: list[Page]) -> None:
    num = 2 if kind == "croco" else 4
    reconstruct(runs / kind, images[:num], out=Path("a.png"), device="cpu")
    (page,) = pages
    words, squares = words_of(page), pictures_of(page)
    assert words[0] == TITLES.get(kind, words[0])
    kinds = "one of random:0.9, rectangle, ellipse" if kind == "muskie" else "random"
    assert words[1] == f"{kind}, step-00000007 · masks {kinds} · seed 0"
    caption = " ".join(words)
    assert ("taken from the input's own patch" in caption) == (kind != "muskie")
    assert ("with nothing taken from the input's" in caption) == (kind == "muskie")
    rows = ["input", "masked input", "reconstruction", *(["confidence"] if kind == "muskie" else [])]
    assert [word for word in words if word in (*rows, "confidence")] == rows
    assert any("confidence, from 0 to 1" in word for word in words) == (kind == "muskie")

    # row by row and column by column what the functions below return
    config = config_of(kind)
    own = np.stack([read_square(image, SIZE) for image in images[:num]])
    batch = torch.from_numpy(own).permute(0, 3, 1, 2)[None]
    found = reconstruct_views(model_of(kind), batch, config.mask)
    is_whole = (~found.is_hidden[0].any(-1)).tolist()
    whole = [number for number in range(num) if is_whole[number]]
    assert [word.removesuffix(" (whole)") for word in words if ".png" in word] == [p.name for p in images[:num]]
    assert [int(word[0]) for word in words if word.endswith(".png (whole)")] == whole
    assert sum(word == "whole view: nothing predicted" for word in words) == len(whole) * (len(rows) - 2)
    lefts, tops = (sorted({getattr(square, side) for square in squares}) for side in ("left", "top"))
    assert (len(lefts), len(tops)) == (num, len(rows))
    for square in squares:
        column, row = lefts.index(square.left), tops.index(square.top)
        if row == 0:
            assert np.array_equal(square.pixels, own[column])
        elif row < 3:
            part = (found.seen if row == 1 else found.whole)[0, column].permute(1, 2, 0)
            assert square.pixels == pytest.approx(part.numpy(), abs=1e-5)
        else:
            hidden = (found.seen[0, column] == HIDDEN).all(0).numpy()
            assert (square.pixels[~hidden] == 1).all()
            assert found.confidence is not None
            wanted = matplotlib.colormaps["viridis"](found.confidence[0, column].numpy())[..., :3]
            assert abs(square.pixels[hidden] - wanted[hidden]).max() < 0.02
        assert row < 2 or not is_whole[column]


def test_settings_change_the_masks_alone(runs: Path, images: list[Path], pages: list[Page]) -> None:
    def title(kind: str, *sets: str, num: int = 4, **options: Any) -> str:
        reconstruct(runs / kind, images[:num], out=Path("a.png"), set=sets, device="cpu", **options)
        return words_of(pages[-1])[0]

    assert title("mum", "mask.ratio=0.9") == "4 views together, 93.8% of the patches hidden"
    assert title("mum", "mask.kind=walk", "mask.ratio=0.5", num=1) == "one view, 50% of the patches hidden"
    assert title("mum", "mask.references=1") == "4 views together, 1 of them whole, 75% of the others' patches hidden"
    assert title("mum", views=False) == "4 views, each by itself, 75% of the patches hidden"
    # 15 and 8 of 16 patches
    assert title("mum", "mask.view_ratios=0.9,0.5", num=2) == "2 views together, 71.9% of the patches hidden"
    chosen = "2 views together, 1 of them whole, 93.8% of the other's patches hidden"
    for seed in range(4):
        assert title("croco", "mask.references=0", "mask.view_ratios=0.9,0", num=2, seed=seed) == chosen
        assert [word for word in words_of(pages[-1]) if ".png" in word] == ["0.png", "1.png (whole)"]
    assert title("muskie", "mask.kind=rectangle", num=1).startswith("one view, ")
    assert words_of(pages[-1])[1] == "muskie, step-00000007 · masks rectangle · seed 0"
    with pytest.raises(ConfigError, match=r"'model.registers=1' is no setting of the masks"):
        title("mum", "model.registers=1")
    with pytest.raises(ConfigError, match=r"hidden_tokens=replaced"):
        title("mum", "mask.kind=rectangle")
    with pytest.raises(ConfigError, match=r"did you mean 'mask\.ratio'"):
        title("mum", "mask.ration=0.9")
    with pytest.raises(ConfigError, match=r"keeps 0 of 16"):
        title("mum", "mask.ratio=0.99")
    with pytest.raises(ConfigError, match=r"mask\.references=7 leaves none of 2 views masked; set 1 or fewer"):
        title("mum", "mask.references=7", num=2)
    # more than the model was trained on
    reconstruct(runs / "mum", images * 2, out=Path("a.png"), set=["mask.references=7"], device="cpu")
    assert words_of(pages[-1])[0].startswith("10 views together, 7 of them whole, ")
    with pytest.raises(ConfigError, match="needs one whole view"):
        title("croco", "mask.references=0", num=2)


@pytest.mark.parametrize("num", [1, 2, 13, 100])
def test_any_number_of_views_stays_tidy(num: int, tmp_path: Path, runs: Path, pages: list[Page]) -> None:
    names = ["W" * 60, "\u65e5\u672c $x_1$", "a\nb", "", "\udcff", " (whole) "]
    images = [write_picture(tmp_path / f"{n:03d}{names[n % 6]}.png", 33, 32, seed=n) for n in range(num)]
    reconstruct(runs / "muskie", images, out=Path("a.png"), device="cpu")
    reconstruct(runs / "mum", images, out=Path("a.png"), views=False, device="cpu")
    for page in pages:
        squares = pictures_of(page)
        assert page[1] <= 3400
        assert len({square.width for square in squares}) == 1
        tops = sorted({square.top for square in squares})
        assert all(below - above >= squares[0].height for above, below in pairwise(tops))
    assert len(pictures_of(pages[1])) == 3 * num
    starts = [word[:3] for word in words_of(pages[1]) if word[:3].isdecimal() and "views" not in word]
    assert starts == [f"{n:03d}" for n in range(num)]


def test_a_reconstruction_is_drawn(runs: Path, tmp_path: Path) -> None:
    image = write_picture(tmp_path / "$x_1$ \u65e5 100%.png", 64, 32)
    for kind in ("mum", "muskie"):
        out = reconstruct(runs / kind, [image, image], out=tmp_path / "out" / f"{kind}.png", device="cpu")
        drawn = cv2.imread(str(out))[..., ::-1]
        # the input, pixel by pixel
        square = enlarged(read_square(image, SIZE), shown_side(SIZE) // SIZE)
        corner = np.argwhere((drawn[:, :, :] == square[0, 0]).all(-1))
        side = len(square)
        assert any(np.array_equal(drawn[y : y + side, x : x + side], square) for y, x in corner[:400])
        again = reconstruct(runs / kind, [image, image], out=tmp_path / "again.png", device="cpu")
        assert again.read_bytes() == out.read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mum.png", "muskie.png"]


def test_what_cannot_be_reconstructed_is_told(runs: Path, tmp_path: Path) -> None:
    image = write_picture(tmp_path / "a.jpg")
    out = tmp_path / "out.png"
    with pytest.raises(ConfigError, match="does not end like a picture"):
        reconstruct(runs / "mum", [image], out=tmp_path / "out.txt")
    with pytest.raises(ConfigError, match="no images"):
        reconstruct(runs / "mum", [], out=out)
    with pytest.raises(ConfigError, match=r"101 images are more .* at most 100"):
        reconstruct(runs / "mum", [image] * 101, out=out)
    for num in (1, 3):
        with pytest.raises(ConfigError, match=f"give 2 images, not {num}"):
            reconstruct(runs / "croco", [image] * num, out=out)
    with pytest.raises(ConfigError, match="never an image by itself"):
        reconstruct(runs / "croco", [image] * 2, out=out, views=False)
    with pytest.raises(MumError, match=r"missing\.jpg"):
        reconstruct(runs / "mum", [tmp_path / "missing.jpg"], out=out)
    with pytest.raises(MumError, match="nowhere"):
        reconstruct(tmp_path / "nowhere", [image], out=out)
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(DecodeError, match=r"a\.jpg"):
        reconstruct(runs / "mum", [image], out=out)
    with pytest.raises(DecodeError, match=r"a\.jpg"):
        attention(runs / "mum", image, image, out=out)
    assert not out.exists()


def test_an_input_is_never_replaced(runs: Path, tmp_path: Path) -> None:
    images = [write_picture(tmp_path / f"{n}.png", seed=n) for n in range(2)]
    link = tmp_path / "link.png"
    link.symlink_to(images[1])
    weights = tmp_path / "weights.png"
    weights.hardlink_to(next((runs / "mum").rglob("step-*")))
    before = [path.read_bytes() for path in (*images, weights)]
    for out in (images[1], tmp_path / ".." / tmp_path.name / "1.png", link, weights):
        with pytest.raises(ConfigError, match="is an input; name another output") as caught:
            reconstruct(weights, images, out=out, device="cpu")
        assert str(out) in str(caught.value)
        with pytest.raises(ConfigError, match="is an input"):
            attention(weights, *images, out=out, device="cpu")
    assert [path.read_bytes() for path in (*images, weights)] == before


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(MumError, match=r"pipe\.jpg: it is no regular file"):
        read_square(tmp_path / "pipe.jpg", SIZE)
    with pytest.raises(MumError, match=r"missing\.jpg: No such file"):
        read_square(tmp_path / "missing.jpg", SIZE)


# ---- attention


class Caught:
    """Inputs and output of a module at its last call."""

    def __init__(self, module: torch.nn.Module) -> None:
        module.register_forward_hook(self)

    def __call__(self, module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        self.inputs, self.output = inputs, output


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The whole matrix [h, L, M] of one sequence, and what it makes of the values, [L, D]: one row after the other."""
    queries, keys, values = (part[0].double().numpy() for part in (q, k, v))
    heads, num, width = queries.shape
    weights = np.empty((heads, num, keys.shape[1]))
    mixed = np.empty((num, heads * width))
    for h in range(heads):
        for row in range(num):
            scores = np.array([np.dot(queries[h, row], key) / np.sqrt(width) for key in keys[h]])
            raised = np.exp(scores - scores.max())
            weights[h, row] = raised / raised.sum()
            mixed[row, h * width : (h + 1) * width] = weights[h, row] @ values[h]
    return weights, mixed


def whole_masks(N: int) -> Masks:
    """Those of a pair of which nothing is hidden, but one patch asked for."""
    groups = tuple(Group(torch.tensor([[view]]), torch.arange(N).view(1, 1, N)) for view in (0, 1))
    return Masks(torch.zeros(1, 2, N, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long), groups)


@torch.no_grad()
def plain_weights(kind: str, model: MaskedAutoencoder, views: torch.Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """Each block in which views meet with its whole matrix [h, L, M], from the inputs that a real pass gives it."""
    meeting = find_meeting(model)
    N = (SIZE // PATCH) ** 2
    part = "cross_attention" if kind == "croco" else "attention"
    modules = {number: getattr(meeting.tower.blocks[number], part) for number in meeting.blocks}
    caught = {number: Caught(module) for number, module in modules.items()}
    normalised = normalise(views, model.pixels)
    if kind == "croco":
        masks = whole_masks(N)
        encoded = model.encode(patchify(normalised, PATCH), (4, 4), masks)
        model.decoder(encoded, (4, 4), masks)
    elif kind == "muskie":
        model.encoder.forward_features(normalised)
    else:
        model.multi_view_layers(normalised)
    for number, module in modules.items():
        if kind == "croco":
            x, rope, memory, _ = caught[number].inputs
            parts = [layer(of) for layer, of in ((module.query, x), (module.key, memory), (module.value, memory))]
            q, k, v = (p.unflatten(-1, (module.heads, -1)).transpose(1, 2) for p in parts)
            q, k = (rotate(p, rope) for p in (q, k))
        else:
            q, k, v = module.queries_keys_values(*caught[number].inputs)
        weights, mixed = plain_attention(q, k, v)
        output = module.projection(torch.from_numpy(mixed).float())
        torch.testing.assert_close(output, caught[number].output[0], rtol=1e-4, atol=1e-5)
        yield number, weights


@pytest.mark.parametrize("kind", MEETING)
def test_weights_are_those_of_the_whole_matrix(kind: str) -> None:
    model, views = model_of(kind), views_of(1, 2, 5)
    N, queries = 16, [0, 6, 15]
    meeting = find_meeting(model)
    S = meeting.tower.num_special
    looks = attention_weights(model, views, queries, meeting.blocks)
    plain = list(plain_weights(kind, model, views))
    assert [one.block for one in looks] == [number for number, _ in plain]
    assert [one.block for one in looks] == ([0, 1, 2, 3] if kind == "croco" else [1, 3])
    assert meeting.num_heads == (2 if kind == "muskie" else 3)
    for one, (_, matrix) in zip(looks, plain, strict=True):
        rows = matrix[:, [S + query for query in queries]].transpose(1, 0, 2)
        assert matrix.max() > 3 / matrix.shape[-1]  # far from even
        views_of_row = np.split(rows, 2, axis=2) if kind != "croco" else [np.zeros_like(rows), rows]
        assert one.a_QhN.numpy() == pytest.approx(views_of_row[0][..., S:], abs=1e-5)
        assert one.b_QhN.numpy() == pytest.approx(views_of_row[1][..., S:], abs=1e-5)
        assert one.special_Qh.numpy() == pytest.approx(sum(part[..., :S].sum(-1) for part in views_of_row), abs=1e-5)
        assert one.b_QhN.shape == (3, meeting.num_heads, N)
        assert one.even == 1 / rows.shape[-1]
        assert (one.a_QhN.sum(-1) + one.b_QhN.sum(-1) + one.special_Qh).numpy() == pytest.approx(1, abs=1e-5)
    (last,) = attention_weights(model, views, [6], [looks[-1].block])
    torch.testing.assert_close(last.b_QhN[0], looks[-1].b_QhN[1])


def test_models_whose_views_never_meet_are_refused(runs: Path, images: list[Path]) -> None:
    with pytest.raises(MumError, match="each view by itself, never at another"):
        attention(runs / "mae", *images[:2], out=Path("a.png"))
    shallow = build_model(config_of("mum", "model.decoder.depth=1"))
    with pytest.raises(MumError, match="never at another"):
        find_meeting(shallow)
    swapped = ("model.decoder_attention=frame", "model.encoder_attention=alternating")
    both = build_model(config_of("mum", *swapped))
    assert find_meeting(both).tower is both.encoder


@pytest.mark.parametrize("kind", ["mum", "croco", "muskie"])
def test_an_attention_page_says_what_it_shows(kind: str, runs: Path, images: list[Path], pages: list[Page]) -> None:
    at = [(0.0, 0.0), (0.3, 0.99), (1.0, 0.5)]
    places = [(0, 0), (3, 1), (2, 3)]  # row and column
    attention(runs / kind, images[0], images[1], out=Path("a.png"), at=at, device="cpu")
    (page,) = pages
    own = np.stack([read_square(image, SIZE) for image in images[:2]])
    batch = torch.from_numpy(own).permute(0, 3, 1, 2)[None]
    model = model_of(kind)
    meeting = find_meeting(model)
    looks = attention_weights(model, batch, [row * 4 + column for row, column in places], meeting.blocks)
    words, squares = words_of(page), pictures_of(page)
    assert words[0] == "Where patches of A, 0.png, look in B, 1.png"
    assert words[1] == f"{kind}, step-00000007 · {meeting.name} · mean of {meeting.num_heads} heads"
    assert len(squares) == 3 * (1 + len(looks))
    frames = [item for item in page[0] if isinstance(item, Frame)]
    for number, (row, column) in enumerate(places):
        line = squares[number * (1 + len(looks)) : (number + 1) * (1 + len(looks))]
        assert len({square.top for square in line}) == 1
        assert f"query: row {row + 1}, column {column + 1}" in words
        assert np.array_equal(line[0].pixels, own[0])
        patch = line[0].width / 4
        for square in line:
            asked = Frame(square.left + column * patch, square.top + row * patch, patch, patch, "cyan")
            assert asked in frames
        maps = [one.b_QhN[number].mean(0).numpy() for one in looks]
        top = max(one.max() for one in maps)
        assert f"{100 * top:.2g}%" in words
        for square, weights, one in zip(line[1:], maps, looks, strict=True):
            assert square.pixels == pytest.approx(overlaid(own[1], weights, top), abs=1e-4)
            down, across = divmod(int(weights.argmax()), 4)
            rim = 5 if (down, across) == (row, column) else 0
            corner = square.left + across * patch - rim, square.top + down * patch - rim
            assert Frame(*corner, patch + 2 * rim, patch + 2 * rim) in frames
            assert f"block {one.block}: {weights.max() / one.even:.2g} × even" in words
            shares = [one.a_QhN[number].sum(-1), one.b_QhN[number].sum(-1), one.special_Qh[number]]
            named = [f"{n} {100 * float(s.mean()):.0f}%" for n, s in zip(("A", "B", "special"), shares, strict=True)]
            assert ", ".join(named if kind != "croco" else ["B 100%"]) in words


def test_colours_of_a_map_stand_for_weights() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    weights = np.zeros(16)
    weights[6] = 0.2  # row 1, column 2 of patches of 2 pixels
    drawn = overlaid(grey, weights, 0.2)
    hot = np.zeros((8, 8), bool)
    hot[2:4, 4:6] = True
    assert len(np.unique(drawn[hot], axis=0)) == len(np.unique(drawn[~hot], axis=0)) == 1
    assert drawn[hot].mean() > drawn[~hot].mean() + 0.3
    assert np.array_equal(overlaid(grey, weights, 0.4)[~hot], drawn[~hot])
    rising = np.array([overlaid(grey, np.full(16, w), 1.0)[0, 0] @ (0.2, 0.7, 0.1) for w in np.linspace(0, 1, 9)])
    assert (np.diff(rising)[2:] > 0).all()


def test_layers_heads_and_points_are_chosen(runs: Path, images: list[Path], pages: list[Page]) -> None:
    def draw(kind: str = "mum", **options: Any) -> list[str]:
        attention(runs / kind, *images[:2], out=Path("a.png"), device="cpu", **options)
        return words_of(pages[-1])

    words = draw(layer=3, at=(0.5, 0.5))
    assert [word.partition(":")[0] for word in words if word.startswith("block")] == ["block 3"]
    words = draw(head=1, layer=1, at=[(0.1, 0.1), (0.9, 0.1)])
    assert words[1].endswith("head 1")
    assert len(pictures_of(pages[-1])) == 4
    words = draw(head="all", at=(0.5, 0.5))
    labels = [word.partition(":")[0] for word in words if word.startswith("block")]
    assert labels == [f"block {block}, head {head}" for block in (1, 3) for head in range(3)]
    assert sum(word == "query: row 3, column 3" for word in words) == 2
    model = model_of("mum")
    batch = torch.from_numpy(np.stack([read_square(image, SIZE) for image in images[:2]])).permute(0, 3, 1, 2)[None]
    (one,) = attention_weights(model, batch, [10], [3])
    assert f"block 3, head 2: {float(one.b_QhN[0, 2].max()) / one.even:.2g} × even" in words
    for options, told in (
        ({"layer": 2}, r"layer 2 is none of the global blocks of the decoder; use 1, 3"),
        ({"head": 3}, r"head 3 does not exist; use 0 to 2"),
        ({"head": -1}, r"head -1 does not exist"),
        ({"at": (0.5, 1.2)}, r"\(0.5, 1.2\) is no point"),
        ({"at": (0.5, float("nan"))}, "is no point"),
        ({"at": [(0.5,)]}, "is no point"),
        ({"at": []}, "is no point"),
    ):
        with pytest.raises(ConfigError, match=told):
            draw(**options)
    assert (read_point("0.5, 1"), read_head("3"), read_head("all")) == ((0.5, 1.0), 3, "all")
    for read, text in ((read_point, "0.5"), (read_point, "a,b"), (read_point, "1,2,3"), (read_head, "two")):
        with pytest.raises(ConfigError, match=f"'{text}' is no"):
            read(text)
    with pytest.raises(ConfigError, match="does not end like a picture"):
        attention(runs / "mum", *images[:2], out=Path("a.gif"))


def test_an_attention_picture_is_drawn(runs: Path, tmp_path: Path) -> None:
    image = write_picture(tmp_path / f"{'W' * 90}.png", 64, 40)
    out = attention(runs / "muskie", image, image, out=tmp_path / "out" / "a.png", head="all", device="cpu")
    drawn = cv2.imread(str(out))
    assert drawn.std() > 20
    assert (drawn == (255, 255, 0)).all(-1).any()  # cyan, blue first
