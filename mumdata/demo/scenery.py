"""Trees and houses that stand around the monuments.

In: a position, a size, names of materials. Out: solids.
"""

from __future__ import annotations

from mumdata import rng
from mumdata.demo.camera import circle
from mumdata.demo.shapes import box, column, gable
from mumdata.demo.solids import Ellipsoid, Solid
from mumdata.demo.texture import Material, hues

__all__ = ["BARK", "GREEN", "houses", "tree"]

GREEN = Material("leaves", hues("294714 739933"), (1.1, 0.0), 21)
BARK = Material("planks", hues("4d3624 6b4f38"), (3.0, 0.15), 22)


def tree(at: tuple[float, float], height: float, crown: str, slim: float = 1.0) -> list[Solid]:
    """Build a tree: a trunk and a crown of five clumps; materials `bark` and `crown`."""
    r, (x, y) = 0.27 * height * slim, at
    clumps = (
        (0.0, 0.0, 0.72, 0.8),
        (0.55, -0.35, 0.56, 0.66),
        (-0.6, 0.1, 0.6, 0.62),
        (0.1, 0.6, 0.54, 0.6),
        (0.05, -0.2, 0.86, 0.52),
    )
    solids: list[Solid] = [column(at, 0.04 * height, (0.0, 0.5 * height), "bark")]
    for dx, dy, up, size in clumps:
        solids.append(
            Ellipsoid((x + dx * r, y + dy * r, up * height), (size * r, size * r * 0.95, 0.24 * size * height), crown)
        )
    return solids


def houses(seed: int, num: int, reach: float, walls: list[str], roof: str, gap: tuple[float, float]) -> list[Solid]:
    """Build a ring of houses, leaving out the part of the circle between the two numbers of turns in `gap`."""
    solids: list[Solid] = []
    draws = rng.unit(rng.words(rng.key(seed, "demo", "houses"), num * 3))
    for i in range(num):
        turns = (i + 0.3 * float(draws[3 * i])) / num
        if gap[0] < turns < gap[1]:
            continue
        x, y = circle(turns)
        far = reach * (1.0 + 0.15 * float(draws[3 * i + 1]))
        storeys = 3 + int(3 * float(draws[3 * i + 2]))
        at, wide = (x * far, y * far), 9.6 + 3.2 * (i % 3)
        # the wall looks at the middle: tangent of half the angle of the direction (x, y) turned by a quarter
        yaw = -x / (1.0 + y) if y > -0.9 else 20.0
        height = 3.0 * storeys
        solids.append(box(at, (wide, 9.0), (0.0, height), walls[i % len(walls)], roof, yaw))
        solids.append(gable(at, (wide + 0.6, 9.6), (height, height + 3.5), roof, walls[i % len(walls)], yaw))
    return solids
