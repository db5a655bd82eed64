"""How many frames a second one core packs: `mumdata.packed.recode` beside plain Pillow.

Run by hand: `python tests/benchmarks/bench_pack.py [--folder DIR] [--size 256] [--images 12]`. Plain Pillow opens a
file, resizes it, saves it with quality 95. Sources are JPEGs of three sizes, made of photos in a folder laid side by
side, or else of a synthetic picture; all in memory, in one process and thread, in turns; the best of the turns counts.
Two more tables tell how far the pictures are from those of a whole decoding, and what halving the chroma would save.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mumdata.images import looks_like_image
from mumdata.packed.recode import Recoding, recode, target_size

SOURCES = ((1600, 1200), (1024, 768), (640, 480))
QUALITY = 95


def synthetic(width: int, height: int, seed: int) -> np.ndarray:
    """A picture with structure at all scales and coarser colours, uint8 RGB [height, width, 3]."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for cells in (3, 7, 20, 60, 150, 400):
        coarse = random.normal(0, 1, (cells, cells, 3 if cells < 50 else 1)).astype(np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / cells**0.5
        image += fine.reshape(height, width, -1)
    return np.round((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)


def mosaic(photos: Sequence[np.ndarray], width: int, height: int, first: int) -> np.ndarray:
    """Photos of 480 x 360 side by side, so that a large picture has as much detail as large photos have."""
    rows, columns = -(-height // 360), -(-width // 480)
    tiles = [photos[(first + place) % len(photos)] for place in range(rows * columns)]
    lines = [np.concatenate(tiles[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
    return np.ascontiguousarray(np.concatenate(lines)[:height, :width])


def photos_in(folder: Path, most: int = 60) -> list[np.ndarray]:
    """Read photos of a folder at 480 x 360."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and looks_like_image(path.name)]
    images = (cv2.imread(str(path)) for path in paths[:most])
    return [cv2.cvtColor(cv2.resize(image, (480, 360)), cv2.COLOR_BGR2RGB) for image in images if image is not None]


def jpeg(image: np.ndarray, quality: int = 92, chroma: int = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, chroma]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1])


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def pillow(data: bytes, size: int, resample: Image.Resampling) -> bytes:
    """What a script would do."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    file = io.BytesIO()
    image.resize(target_size(*image.size, size), resample).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def whole(data: bytes, size: int) -> np.ndarray:
    """The picture decoded whole and averaged: what packing comes near to."""
    image = decoded(data)
    return cv2.resize(image, target_size(image.shape[1], image.shape[0], size), interpolation=cv2.INTER_AREA)


def seconds(functions: Sequence[Callable[[], object]], turns: int = 7) -> list[float]:
    """Return the best time of each function, over turns in which each is called once."""
    best = [float("inf")] * len(functions)
    for _ in range(turns):
        for place, function in enumerate(functions):
            begin = time.perf_counter()
            function()
            best[place] = min(best[place], time.perf_counter() - begin)
    return best


def error(images: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the mean difference in levels of 255."""
    pairs = zip(images, expected, strict=True)
    return float(np.mean([np.abs(one.astype(np.int64) - other).mean() for one, other in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="photos to make the sources of")
    parser.add_argument("--size", type=int, default=256, help="short side of the packed pictures")
    parser.add_argument("--images", type=int, default=12, help="sources of each size")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    size, photos = options.size, photos_in(options.folder) if options.folder else []
    if options.folder and not photos:
        parser.error(f"no images below {options.folder}")
    small: list[np.ndarray] = []
    head = f"{'source':>12} {'KiB':>6} {'packed':>9} {'Lanczos':>9} {'bicubic':>9}  frames/s/core"
    print(f"{head}; ratio to Lanczos, bicubic; difference to a whole decoding, KiB packed")
    for width, height in SOURCES:
        pictures = [
            mosaic(photos, width, height, 7 * place) if photos else synthetic(width, height, place)
            for place in range(options.images)
        ]
        sources = [jpeg(picture, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420) for picture in pictures]
        how = Recoding(size, QUALITY)
        times = seconds(
            [
                lambda sources=sources, how=how: [recode(data, how) for data in sources],
                lambda sources=sources: [pillow(data, size, Image.Resampling.LANCZOS) for data in sources],
                lambda sources=sources: [pillow(data, size, Image.Resampling.BICUBIC) for data in sources],
            ]
        )
        ours, lanczos, bicubic = (len(sources) / each for each in times)
        expected = [whole(data, size) for data in sources]
        # with quality 100, so that the difference is the resizing's
        finest = [decoded(recode(data, Recoding(size, 100)).data) for data in sources]
        coded = [decoded(jpeg(image, 100)) for image in expected]
        packed = [recode(data, how).data for data in sources]
        print(
            f"{width:>7} x {height:<4}{sum(map(len, sources)) / len(sources) / 1024:6.0f} {ours:9.0f} {lanczos:9.0f} "
            f"{bicubic:9.0f}  {ours / lanczos:.2f} x, {ours / bicubic:.2f} x; {error(finest, coded):.2f} levels, "
            f"{sum(map(len, packed)) / len(packed) / 1024:.1f}"
        )
        small += expected
    print(f"\nchroma at {size} pixels: KiB, mean error in levels, microseconds to decode")
    kinds = {"4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444}
    for name, chroma in kinds.items():
        for quality in (90, QUALITY):
            data = [jpeg(image, quality, chroma) for image in small]
            (spent,) = seconds([lambda data=data: [decoded(one) for one in data]])
            kib = sum(map(len, data)) / len(data) / 1024
            off = error([decoded(one) for one in data], small)
            print(f"  {name} quality {quality}: {kib:6.1f} {off:6.2f} {spent / len(data) * 1e6:7.0f}")


if __name__ == "__main__":
    main()
