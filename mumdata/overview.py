"""`mumdata datasets`: what is known about the datasets without looking at a disk.

In: nothing but the datasets' own specifications. Out: a table with a row for each dataset, or everything about one of
them as text for a terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mumdata.datasets import NAMES, KnownBad, Spec, load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["known_datasets", "render_dataset"]

_MANY = 8  # scenes that share a remark are counted beyond this number


def known_datasets(name: str | None = None) -> pd.DataFrame:
    """Return a row for each dataset, or one for `name`: name, title, rule, scenes, frames, licence.

    `scenes` and `frames` are what the whole dataset holds, <NA> where nobody counted. ConfigError for a name that is
    not known.
    """
    import pandas as pd

    specs = [load(known).SPEC for known in (NAMES if name is None else (name,))]
    return pd.DataFrame(
        {
            "name": [spec.name for spec in specs],
            "title": [spec.title for spec in specs],
            "rule": [spec.rule for spec in specs],
            "scenes": pd.array([spec.num_scenes for spec in specs], "Int64"),
            "frames": pd.array([spec.num_frames for spec in specs], "Int64"),
            "licence": [_short(spec.licence) for spec in specs],
        }
    )


def render_dataset(name: str, width: int = 80) -> str:
    """Write everything that is known about one dataset; ConfigError for a name that is not known."""
    spec = load(name).SPEC
    lines = _wrapped(f"{spec.title} ({spec.name})", "", width)
    for label, texts in _rows(spec):
        for place, text in enumerate(texts):
            lines += _wrapped(text, f"  {label if place == 0 else '':<11} ", width)
    return "\n".join(lines)


def _rows(spec: Spec) -> Iterator[tuple[str, Sequence[str]]]:
    yield "licence", [spec.licence]
    yield "source", [spec.source]
    yield "layouts", [f"{layout.name}: {layout.shape}" for layout in spec.layouts]
    yield "parts", list(dict.fromkeys(what for layout in spec.layouts for what in layout.parts.values()))
    yield "archives", [f"{', '.join(spec.archives)} (read as if unpacked where they lie)"] if spec.archives else []
    yield "not read", list(spec.refused.values())
    yield "expected", [text for text in (_expected(spec), spec.counts) if text]
    yield "rule", [spec.rule + ("; single images" if spec.single_view else "")]
    yield "presets", [f"{preset}: {_options(options)}" for preset, options in spec.presets.items()]
    yield "evaluation", _evaluation(spec)
    yield "known bad", _known_bad(spec.known_bad)
    yield "next", [_next(spec)]


def _expected(spec: Spec) -> str:
    counts = ((spec.num_scenes, "scenes"), (spec.num_frames, "frames"))
    return ", ".join(f"{num:,} {what}" for num, what in counts if num is not None)


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "the rule's defaults"


def _evaluation(spec: Spec) -> list[str]:
    # benchmark: scenes; they are left out when mining
    benchmarks: dict[str, list[str]] = {}
    for scene, benchmark in spec.eval_scenes.items():
        benchmarks.setdefault(benchmark, []).append(scene)
    found = [f"{benchmark}: {_listed(scenes)} (not mined)" for benchmark, scenes in benchmarks.items()]
    return [*found, *filter(None, (spec.evaluation,))]


def _known_bad(entries: Sequence[KnownBad]) -> list[str]:
    # entries that share reason and source stand in one line
    places: dict[tuple[str, str, bool], list[str]] = {}
    for entry in entries:
        place = (entry.path or "").lstrip("/") or " ".join(filter(None, (entry.scene, entry.stream))) or "anywhere"
        places.setdefault((entry.reason, entry.source, entry.drop), []).append(place)
    return [
        f"{_listed(where)}: {reason} ({source}){'' if drop else '; kept, with a remark'}"
        for (reason, source, drop), where in places.items()
    ]


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MANY:
        return ", ".join(names)
    return f"{', '.join(names[: _MANY - 1])} and {len(names) - _MANY + 1:,} more"


def _next(spec: Spec) -> str:
    called = " --name MINE" if spec.name in ("folder", "colmap") else ""
    return f"mumdata check DIR, or mumdata index {spec.name} --root DIR{called}"


def _short(licence: str) -> str:
    return licence.partition(":")[0].partition(";")[0].strip()


def _wrapped(text: str, first: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False)
