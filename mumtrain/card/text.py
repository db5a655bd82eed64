"""The card of a run as Markdown.

In: the facts. Out: text that tells people what to know before they use the model: above all whose data it has seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mumtrain.card.datasets import LIMITS
from mumtrain.card.markdown import bullet, code_block, escape, paragraph, quote, table

__all__ = ["markdown"]

_UNKNOWN = "not recorded"

Facts = dict[str, Any]


def markdown(facts: Facts) -> str:
    """Return the card; what the facts do not hold it calls not recorded."""
    parts = [_what, _licences, _data, _leaks, _outcome, _gain, _machines, _again, _notes]
    return "\n".join(line for part in parts for line in part(facts)).rstrip() + "\n"


# ---- what it is


def _what(facts: Facts) -> Iterator[str]:
    yield f"# {escape(facts['run'])}"
    yield ""
    size, steps, views = facts["parameters"], facts["steps"], facts["views"]
    done = _count(steps["done"])
    state = "" if steps["done"] is None else "; finished" if steps["done"] >= steps["planned"] else "; not finished"
    datasets = facts["mix"]["datasets"]
    on = "a mix that is not at hand any more" if datasets is None else _counted(len(datasets), "dataset")
    yield from paragraph(
        f"A masked autoencoder of images, trained by mumtrain on {on}; recipe "
        f"{_or_unknown(facts['recipe'])}. Sizes: {_count(size['total'])} parameters, {_count(size['encoder'])} of them "
        "the encoder's."
    )
    yield from bullet(f"Steps: {done} of {_count(steps['planned'])}{state}.")
    batch = facts["frames_per_step"]
    yield from bullet(
        f"A step: {_counted(batch['slots'], 'slot')} of at most {_counted(batch['most_per_slot'], 'frame')}; "
        f"{views['min']} to {views['max']} views of {views['size_px']} x {views['size_px']} pixels; "
        f"seed {facts['seed']}.{' The views change with the steps, see data.stages.' if views['stages'] else ''}"
    )
    yield from bullet(f"First weights: {_init(facts['init'])}.")
    yield from bullet(f"Settings other than the recipe's: {_settings(facts['settings'])}.")
    yield ""


def _init(init: Facts | None) -> str:
    if init is None:
        return "drawn at random"
    sha256 = str(init["sha256"] or _UNKNOWN)
    taken, anew = _count(init["num_taken"]), _count(init["num_anew"])
    return f"{_or_unknown(init['source'])} (SHA-256 {escape(sha256)}): {taken} tensors taken, {anew} started anew"


def _settings(settings: Sequence[Facts] | None) -> str:
    if settings is None:
        return _UNKNOWN
    told = (f"{escape(one['key'])}={_value(one['value'])} (recipe: {_value(one['recipe'])})" for one in settings)
    return ", ".join(told) or "none"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return escape(",".join(map(str, value)))
    return escape(value if value != "" else "nothing")


# ---- its data


def _licences(facts: Facts) -> Iterator[str]:
    yield "## Licences of the data"
    yield ""
    datasets = facts["mix"]["datasets"]
    if datasets is None:
        yield from _no_mix(facts)
        return
    limited = {
        limit: [escape(row["dataset"]) for row in datasets if limit in row["licence_limits"] and _is_read(row)]
        for limit in LIMITS
    }
    if any(limited.values()):
        yield from quote(f"**{limit}**: {', '.join(names)}" for limit, names in limited.items() if names)
    for row in datasets:
        weight = "" if _is_read(row) else " (weight 0)"
        yield from bullet(f"**{escape(row['dataset'])}**{weight}: {escape(row['licence']) or _UNKNOWN}")
    yield ""
    yield from paragraph("As the catalogs tell them; this is no legal advice.")


def _is_read(row: Facts) -> bool:
    # what a curriculum gives a weight of its own counts, too
    return bool(row["weight"] > 0 or (row["read"] or {}).get("frames"))


def _no_mix(facts: Facts) -> Iterator[str]:
    yield from paragraph(f"Not recorded: {escape(facts['mix']['problem'])}.")


def _data(facts: Facts) -> Iterator[str]:
    yield "## What it has read"
    yield ""
    mix = facts["mix"]
    yield from paragraph(f"Mix: {_or_unknown(mix['path'])}, digest {_or_unknown(mix['digest'])}.")
    if mix["datasets"] is None:
        return
    head = ["dataset", "weight", "share", "sequences", "to be drawn", "held out", "frames"]
    rows = [
        [
            escape(row["dataset"]) + (" (single images)" if row["single_view"] else ""),
            f"{row['weight']:g}",
            f"{100 * row['share']:.1f} %",
            _count(row["sequences"]),
            *_split(row),
            _count(row["frames"]),
        ]
        for row in mix["datasets"]
    ]
    yield from table(head, rows)
    yield from paragraph(
        "Sequences and frames are those of the mix. Training draws no sequence that is held out; the frames are those "
        "of held-out sequences too."
    )
    if facts["exposure"] is None:
        yield from paragraph("How often which sequence was drawn and which frame was shown: not recorded.")
        return
    head = ["dataset", "sequences drawn", "different ones", "frames shown", "different ones"]
    columns = ("sequences", "distinct_sequences", "frames", "distinct_frames")
    yield from table(
        head, [[escape(row["dataset"]), *(_count(row["read"][key]) for key in columns)] for row in mix["datasets"]]
    )
    missing = facts["exposure"]["missing_steps"]
    gaps = "".join(f"; those of steps {_count(first)} to {_count(last)} are not recorded" for first, last in missing)
    yield from paragraph(f"Visits are counted up to step {_count(facts['exposure']['last_step'])}{gaps}.")


def _split(row: Facts) -> tuple[str, str]:
    # how many sequences training may draw, and how many it may not
    num = row["sequences_held_out"]
    if num is None:
        return _UNKNOWN, f"{100 * row['held_out']:g} % (nominal)"
    return _count(row["sequences"] - num), _count(num)


def _leaks(facts: Facts) -> Iterator[str]:
    yield "## Frames that benchmarks evaluate on"
    yield ""
    datasets = facts["mix"]["datasets"]
    if datasets is None:
        yield from _no_mix(facts)
        return
    for row in datasets:
        name, found = escape(row["dataset"]), row["evaluation"]
        if found["benchmarks"] is None:
            yield from bullet(f"**{name}**: not checked ({escape(found['problem'])})")
        elif not found["benchmarks"]:
            yield from bullet(f"{name}: none of the known ones")
        for one in found["benchmarks"] or ():
            shown = "how many were shown is not recorded" if one["shown"] is None else f"{_count(one['shown'])} shown"
            yield from bullet(
                f"**{name}: {_counted(one['frames'], 'frame')} of {_counted(one['scenes'], 'scene')} of "
                f"{escape(one['benchmark'])}** could be read; {shown}"
            )
    yield ""
    yield from paragraph(
        "Known are frames that the catalogs mark (eval_of); counted are those in the mix's sequences, held-out ones "
        "too. Copies of such frames in other datasets are not looked for."
    )


# ---- how it went


def _outcome(facts: Facts) -> Iterator[str]:
    yield "## How it went"
    yield ""
    metrics = facts["metrics"]
    if metrics is None:
        yield from paragraph("Not recorded: there is no line of metrics yet.")
        return
    yield from bullet(
        f"Loss: {_number(metrics['loss'])} at step {_count(metrics['step'])}; {_number(metrics['loss_last_tenth'])} as "
        f"the mean of lines in the last tenth of the run ({_counted(metrics['lines_last_tenth'], 'line')} of metrics)."
    )
    if metrics["loss_by_dataset"]:
        told = (f"{escape(name)} {_number(loss)}" for name, loss in metrics["loss_by_dataset"].items())
        yield from bullet(f"Loss by dataset, mean of those of these lines that tell it: {', '.join(told)}.")
    yield from bullet(f"Images read: {_count(metrics['frames_read'])}; broken or missing: {_bad_frames(metrics)}.")
    yield from bullet(f"Steps left out because loss or gradient was no finite number: {_count(metrics['bad_steps'])}.")
    yield from bullet(_hours(facts))
    yield ""


def _bad_frames(metrics: Facts) -> str:
    bad, read = metrics["bad_frames"], metrics["frames_read"]
    return _count(bad) + (f" ({100 * bad / read:.2g} %)" if bad and read else "")


def _hours(facts: Facts) -> str:
    time = facts["time"]
    what = "device-hours" if "cpu" in facts["devices"] else "GPU-hours"
    if time["gpu_hours"] is None:
        return f"Time: {_UNKNOWN}."
    hours = f"{_number(time['hours'])} h by the clock" if time["hours"] is not None else f"by the clock {_UNKNOWN}"
    return f"Time: {hours}, {_number(time['gpu_hours'])} {what}, up to step {_count(facts['metrics']['step'])}."


def _gain(facts: Facts) -> Iterator[str]:
    yield "## Cross-view gain"
    yield ""
    gain = facts["gain"]
    if gain is None or gain["gain"] is None:
        reason = (gain or {}).get("reason")
        yield from paragraph(f"Not recorded{f': {escape(reason)}' if reason else ''}.")
        return
    uses = "The model uses its" if _is_above_0(gain["low"], gain["high"]) else "This does not show that it uses its"
    views = "" if gain["views"] is None else f" with {_counted(gain['views'], 'view')}"
    yield from paragraph(
        f"**{gain['gain']:.4f}** ({_interval(gain['low'], gain['high'])}) at step {_count(gain['step'])}{views}, on "
        f"{_counted(gain['samples'], 'sample')}: how much the other views lower the error of hidden patches whose "
        f"content they show ({_number(gain['g_a'])}{_scenes(gain['scenes_a'])}), beyond that of patches whose content "
        f"they do not show ({_number(gain['g_b'])}{_scenes(gain['scenes_b'])}). {uses} other views.{_within(gain)}"
    )


def _within(gain: Facts) -> str:
    if gain["within"] is None:
        return ""
    interval = _interval(gain["within_low"], gain["within_high"])
    return f" Within samples alone: {gain['within']:.4f} ({interval})."


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "too few scenes for an interval"
    return f"95 % over scenes: {low:.4f} to {high:.4f}"


def _is_above_0(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and 0 < low <= high


def _scenes(num: int | None) -> str:
    return "" if num is None else f", {_counted(num, 'scene')}"


def _machines(facts: Facts) -> Iterator[str]:
    yield "## Machines and versions"
    yield ""
    if not facts["starts"]:
        yield from paragraph("Not recorded.")
        return
    rows = [
        [_or_unknown(one["started"]), _count(one["step"]), _count(one["ranks"]), _or_unknown(one["device"])]
        for one in facts["starts"]
    ]
    yield from table(["started", "from step", "ranks", "device"], rows)
    for name, found in facts["versions"].items():
        told = " -> ".join(map(escape, found)) or _UNKNOWN
        yield from bullet(f"{escape(name)} {told}" if len(found) < 2 else f"**{escape(name)} changed: {told}**")
    yield ""


# ---- what to do with it


def _again(facts: Facts) -> Iterator[str]:
    yield "## Use it, and train it again"
    yield ""
    load = facts["commands"]["load"]
    yield from code_block(["import mumtrain", f"encoder = {load['encoder']}", f"model = {load['model']}"], "python")
    command = facts["commands"]["repeat"]
    if isinstance(command, str):
        yield from code_block([command], "sh")
    else:
        yield from paragraph(f"The command that trains it: {_UNKNOWN}.")


def _notes(facts: Facts) -> Iterator[str]:
    if facts["notes"]:
        yield "## Notes"
        yield ""
        for note in facts["notes"]:
            yield from bullet(escape(note))


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _or_unknown(value)


def _counted(value: Any, name: str) -> str:
    return f"{_count(value)} {name}{'' if value == 1 else 's'}"


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else _or_unknown(value)


def _or_unknown(value: Any) -> str:
    if value is None:
        return _UNKNOWN
    return escape(value if isinstance(value, str) else json.dumps(value))
