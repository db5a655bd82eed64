"""The command `mumdata`: thin wrappers over the public functions of the same name and parameters.

Results go to standard output, progress and errors to standard error. An expected failure is one line and exit status
1, wrong usage exit status 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from mumdata.command import Sections, run

__all__ = ["app", "main"]

app = typer.Typer(
    help="Index multi-view image datasets, mine covisible sequences, and ask questions about them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Catalogs = Annotated[Path, typer.Option("--catalogs", help="Folder of the catalogs.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder that holds the dataset's files.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes; default: all CPUs.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Format = Annotated[str, typer.Option("--format", help="table, json or csv.")]

DEFAULT_CATALOGS = Path("catalogs")

# options that do nothing at these values, which are not worth a word
NEUTRAL: dict[str, object] = {"min_overlap": 0.0, "max_overlap": 1.0, "temperature": 0.0, "min_mean_overlap": 0.0}
NEUTRAL |= {"anchor_overlap": 0.0, "chunk_stride": 1, "chunk_overlap": 0, "cover": False}

# groups of options in the help of mine-sequences
PAIRS, FRAMES, SEQUENCES, WORK = "What frames share", "Which frames", "Which sequences", "How the work is done"


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from mumdata import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def datasets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A dataset; default: all.")] = None,
    format: Format = "table",
) -> None:
    """What is known about the datasets: rule, licence, layouts, expected size, how to get them."""
    from mumdata.overview import known_datasets, render_dataset
    from mumdata.tables import render

    found = known_datasets(name)
    if name is not None and format == "table":
        print(render_dataset(name))
    else:
        print(render(found.drop(columns="title") if format == "table" else found, format))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Any folder.")],
) -> None:
    """Tell which dataset and layout a folder is, what is missing, and the next command."""
    from mumdata.check import check, render_check

    print(render_check(check(folder), shutil.get_terminal_size((80, 24)).columns))


@app.command()
def index(
    dataset: Annotated[str, typer.Argument(metavar="NAME", help="A dataset, or folder, or colmap.")],
    root: Root = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call a folder or colmap catalog.")] = None,
    catalogs: Catalogs = DEFAULT_CATALOGS,
    all_images: Annotated[
        bool, typer.Option("--all-images", help="megascenes: list photos that no model registers, too.")
    ] = False,
    verify: Annotated[
        str | None, typer.Option("--verify", help="none, header or decode; default: as last time, else header.")
    ] = None,
    content_hash: Annotated[
        bool | None, typer.Option("--content-hash/--no-content-hash", help="Hash each file, and find copies by it.")
    ] = None,
    workers: Workers = None,
    engine: Annotated[
        str, typer.Option("--engine", help="local, or ray: a scene is a task of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="The Ray cluster; default: one started here.")
    ] = None,
) -> None:
    """List a dataset's images: writes frames.parquet and scenes.parquet. Again: only what changed is read."""
    from mumdata.index import index

    found = index(
        dataset,
        root=root,
        name=name,
        catalogs=catalogs,
        all_images=all_images,
        verify=verify,
        content_hash=content_hash,
        workers=workers,
        engine=engine,
        address=address,
    )
    for archive, member, _, detail in found.refused[:5]:
        print(f"note: {archive}{f', {member}' if member else ''}: {detail}", file=sys.stderr)
    if len(found.refused) > 5:
        more = f"mumdata stats quarantine --dataset {found.name}{_flag(catalogs)}"
        print(f"note: {len(found.refused) - 5:,} more are refused: {more}", file=sys.stderr)
    for note in found.notes:
        print(textwrap.fill(f"note: {note}", 80, subsequent_indent="  "), file=sys.stderr)
    statuses = _counts(found.frame_statuses)
    print(f"{found.name}: {found.num_frames:,} frames ({statuses}) in {found.num_scenes:,} scenes and streams")
    print(f"  scenes: {_counts(found.scene_statuses)}")
    if found.num_frames != found.num_added or found.num_removed:
        print(f"  {found.num_added:,} added, {found.num_changed:,} changed, {found.num_removed:,} removed")
    print(f"  {found.catalog / 'frames.parquet'} {'written' if found.changed else 'unchanged'}")
    print(f"next: mumdata mine-sequences {found.name}{_flag(catalogs)}")


@app.command("mine-sequences", cls=Sections)
def mine_sequences(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The dataset.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="The dataset (the same as NAME).")] = None,
    root: Root = None,
    catalogs: Catalogs = DEFAULT_CATALOGS,
    rule: Annotated[str | None, typer.Option("--rule", help="Mining rule; default: the dataset's own.")] = None,
    preset: Annotated[
        str, typer.Option("--preset", help="mumdata, mum-paper (the paper's thresholds), or mum-released.")
    ] = "mumdata",
    split: Annotated[
        str | None, typer.Option("--split", help="Split to mine, or all; default: train, if there.")
    ] = None,
    seed: Seed = 0,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="What tells which frames see the same: tracks, depth, mesh, d2net or dkm.",
            rich_help_panel=PAIRS,
        ),
    ] = None,
    from_dir: Annotated[
        Path | None, typer.Option("--from-dir", help="Folder of d2net's or dkm's matrices.", rich_help_panel=PAIRS)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            "--window", help="depth, mesh: frames of a video at most so far apart [100].", rich_help_panel=PAIRS
        ),
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option("--grid", help="depth, mesh: samples along a frame's longer side.", rich_help_panel=PAIRS),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="depth, mesh: how far depths may differ, relative.", rich_help_panel=PAIRS),
    ] = None,
    check_tracks: Annotated[
        bool,
        typer.Option("--check-tracks", help="Compare the files of a model, all keypoints.", rich_help_panel=PAIRS),
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Do not use what earlier runs found, but read anew.", rich_help_panel=PAIRS),
    ] = False,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="A list of image pairs for --rule pair (CroCo's, too).", rich_help_panel=PAIRS),
    ] = None,
    allow_eval_scenes: Annotated[
        bool,
        typer.Option(
            "--allow-eval-scenes", help="Mine scenes that benchmarks evaluate on, too.", rich_help_panel=FRAMES
        ),
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Mine frames whose files are missing: to choose what to download.",
            rich_help_panel=FRAMES,
        ),
    ] = False,
    keep_copies: Annotated[
        bool | None,
        typer.Option(
            "--keep-copies/--no-copies", help="Let copies of a photo meet in a sequence.", rich_help_panel=FRAMES
        ),
    ] = None,
    min_frames: Annotated[
        int | None, typer.Option("--min-frames", help="Fewest frames of a sequence.", rich_help_panel=SEQUENCES)
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", help="Most frames of a sequence.", rich_help_panel=SEQUENCES)
    ] = None,
    per_scene: Annotated[
        str | None,
        typer.Option(
            "--per-scene",
            metavar="N|auto",
            help="Sequences a scene; auto: until all its frames are covered.",
            rich_help_panel=SEQUENCES,
        ),
    ] = None,
    cover: Annotated[
        bool | None,
        typer.Option(
            "--cover/--no-cover", help="Begin with frames that no sequence holds yet.", rich_help_panel=SEQUENCES
        ),
    ] = None,
    min_shared: Annotated[
        int | None, typer.Option("--min-shared", help="Fewest shared points of a link.", rich_help_panel=SEQUENCES)
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option("--overlap", metavar="LOW:HIGH", help="Band of every link's overlap.", rich_help_panel=SEQUENCES),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="0: the best next frame; else drawn with weight overlap^(1/t).",
            rich_help_panel=SEQUENCES,
        ),
    ] = None,
    min_mean_overlap: Annotated[
        float | None,
        typer.Option("--min-mean-overlap", help="End a chain where it drifts away.", rich_help_panel=SEQUENCES),
    ] = None,
    anchor_overlap: Annotated[
        float | None,
        typer.Option(
            "--anchor-overlap", help="Least overlap of the first frame with all others.", rich_help_panel=SEQUENCES
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="iou or overlap.", rich_help_panel=SEQUENCES)] = None,
    angle: Annotated[
        str | None, typer.Option("--angle", help="axis, rotation or triangulation.", rich_help_panel=SEQUENCES)
    ] = None,
    min_metric: Annotated[
        float | None, typer.Option("--min-metric", help="Least iou or overlap of a link.", rich_help_panel=SEQUENCES)
    ] = None,
    min_angle_deg: Annotated[
        float | None, typer.Option("--min-angle-deg", help="Least angle of a link.", rich_help_panel=SEQUENCES)
    ] = None,
    max_angle_deg: Annotated[
        float | None, typer.Option("--max-angle-deg", help="Largest angle of a link.", rich_help_panel=SEQUENCES)
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option("--chunk-size", help="Frames of a chunk.", rich_help_panel=SEQUENCES)
    ] = None,
    chunk_stride: Annotated[
        int | None, typer.Option("--chunk-stride", help="Take every so many-th frame.", rich_help_panel=SEQUENCES)
    ] = None,
    chunk_overlap: Annotated[
        int | None,
        typer.Option("--chunk-overlap", help="Frames that neighbouring chunks share.", rich_help_panel=SEQUENCES),
    ] = None,
    last_chunk: Annotated[
        str | None,
        typer.Option("--last-chunk", help="even, or released: the last takes the rest.", rich_help_panel=SEQUENCES),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option("--memory-gb", help="Memory of all workers together; default: half.", rich_help_panel=WORK),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes; default: all CPUs.", rich_help_panel=WORK)
    ] = None,
    engine: Annotated[
        str,
        typer.Option("--engine", help="local, or ray: a scene is a task of a cluster.", rich_help_panel=WORK),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", help="The Ray cluster; default: one started here.", rich_help_panel=WORK),
    ] = None,
) -> None:
    """Mine sequences: writes sequences.parquet, and covisibility.parquet where pairs are asked for."""
    from mumdata.index import module_of
    from mumdata.sequences import mine_sequences

    if (name is None) == (dataset is None) and name != dataset:
        raise typer.BadParameter("give the dataset once, as NAME or with --dataset")
    called = name or dataset
    if called is None:
        raise typer.BadParameter("name the dataset")
    found = mine_sequences(
        called,
        root=root,
        catalogs=catalogs,
        rule=rule,
        preset=preset,
        source=source,
        from_dir=from_dir,
        window=window,
        grid=grid,
        tolerance=tolerance,
        check_tracks=check_tracks,
        again=again,
        pairs=pairs,
        split=split,
        allow_eval_scenes=allow_eval_scenes,
        allow_missing=allow_missing,
        keep_copies=keep_copies,
        seed=seed,
        min_frames=min_frames,
        max_frames=max_frames,
        per_scene=_count_or_auto(per_scene),
        cover=cover,
        min_shared=min_shared,
        overlap=_band(overlap),
        temperature=temperature,
        min_mean_overlap=min_mean_overlap,
        anchor_overlap=anchor_overlap,
        metric=metric,
        angle=angle,
        min_metric=min_metric,
        min_angle_deg=min_angle_deg,
        max_angle_deg=max_angle_deg,
        chunk_size=chunk_size,
        chunk_stride=chunk_stride,
        chunk_overlap=chunk_overlap,
        last_chunk=last_chunk,
        memory_gb=memory_gb,
        workers=workers,
        engine=engine,
        address=address,
    )
    for note in found.notes:
        print(textwrap.fill(f"note: {note}", 80, subsequent_indent="  "), file=sys.stderr)
    for stream, problem in list(found.problems.items())[:5]:
        print(textwrap.fill(f"note: {stream}: {problem}", 80, subsequent_indent="  "), file=sys.stderr)
    if len(found.problems) > 5:
        print(f"note: and {len(found.problems) - 5:,} more streams with such notes", file=sys.stderr)
    how = ", ".join(f"{key} {value}" for key, value in found.source_options.items() if value is not None)
    shares = "" if found.num_pairs is None else f", {found.num_pairs:,} pairs from {found.source}"
    shares += f" ({how})" if shares and how else ""
    distinct = "" if found.num_distinct == found.num_sequences else f" ({found.num_distinct:,} distinct)"
    print(f"{found.name}: {found.num_sequences:,} sequences{distinct} by {found.rule}{shares}")
    shown = [f"{key} {value}" for key, value in found.options.items() if key != "rule" and value != NEUTRAL.get(key)]
    if shown:
        print(_wrapped(", ".join(shown), "  "))
    share = f" ({found.num_covered / found.num_usable:.0%})" if found.num_usable else ""
    kept = "kept" if found.options.get("keep_copies") else "left out"
    copies = f"; {found.num_copies:,} copies {kept}" if found.num_copies else ""
    print(f"  {found.num_covered:,} of {found.num_usable:,} usable frames are in a sequence{share}{copies}")
    if found.bytes_total:
        print(f"  {_size(found.bytes_read)} read of models of {_size(found.bytes_total)}")
    if found.num_scenes_without:
        print(f"  {found.num_scenes_without:,} of {found.num_scenes:,} scenes and streams yield none:")
        for reason, count in list(found.reasons.items())[:5]:
            print(_wrapped(f"{count:,} x {reason}", "    "))
        if len(found.reasons) > 5:
            print("    ... all of them: mumdata stats scenes")
    print(f"  {found.catalog / 'sequences.parquet'} {'written' if found.changed else 'unchanged'}")
    own = f" only --weight {found.name}=1" if module_of(found.name, catalogs) in ("folder", "colmap") else ""
    print(f"next: mumdata mix{own}{_flag(catalogs)}")


@app.command()
def mix(
    definition: Annotated[str, typer.Argument(metavar="[mum|only|FILE.toml]", help="Datasets and weights.")] = "mum",
    weight: Annotated[
        list[str] | None, typer.Option("--weight", help="NAME=0.5 adds or changes a dataset; 0 removes it.")
    ] = None,
    catalogs: Catalogs = DEFAULT_CATALOGS,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Mix file; default: CATALOGS/mix.parquet.")] = None,
    min_frames: Annotated[int | None, typer.Option("--min-frames", help="Fewest frames of a sequence; 2.")] = None,
    holdout: Annotated[float, typer.Option("--holdout", help="Share of the groups kept out of training.")] = 0.0,
) -> None:
    """Mix datasets for one training run: writes mix.parquet."""
    from mumdata.mix import mix

    found = mix(definition, weight=weight, catalogs=catalogs, out=out, min_frames=min_frames, holdout=holdout)
    if found.left_out:
        note = f"note: left out, having no catalog or no sequences yet: {', '.join(found.left_out)}"
        print(textwrap.fill(note, 80, subsequent_indent="  "), file=sys.stderr)
    for row in found.rows:
        kind = "single images" if row["single_view"] else "sequences"
        held = found.held_out[row["dataset"]]
        aside = f" ({held:,} held out)" if held else ""
        num = f"{row['num_sequences']:,} {kind}{aside}, {row['num_frames']:,} frames"
        print(f"{row['weight']:7.1%}  {row['dataset']}: {num}")
    print(f"  {found.path} {'written' if found.changed else 'unchanged'}")
    print(f"next: mumtrain pretrain {found.path}")
    print("      (without a GPU, add: --recipe debug-cpu)")
    if holdout:
        print(f"      (to measure what views are worth, first: mumdata correspondences {found.path})")


@app.command()
def correspondences(
    mix: Annotated[Path, typer.Argument(metavar="MIX", help="A mix made with --holdout.")],
    all: Annotated[
        bool, typer.Option("--all", help="Not the held-out frames alone: for a mix that no run trains on.")
    ] = False,
    num: Annotated[int, typer.Option("--num", help="Samples in all.")] = 64,
    views: Annotated[int, typer.Option("--views", help="Frames of a sample.")] = 8,
    grid: Annotated[int, typer.Option("--grid", help="Points along a frame's longer side.")] = 32,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File; default: MIX's name with .correspondences.parquet.")
    ] = None,
) -> None:
    """Find what held-out frames show of each other, for training to measure whether a model uses its other views."""
    from mumdata.correspondences import correspondences

    found = correspondences(mix, num=num, views=views, grid=grid, seed=seed, all=all, out=out)
    for note in found.notes[:5]:
        print(textwrap.fill(f"note: {note}", 80, subsequent_indent="  "), file=sys.stderr)
    if len(found.notes) > 5:
        print(f"note: and {len(found.notes) - 5:,} more scenes are left out", file=sys.stderr)
    print("\n".join(found.lines()))


@app.command()
def stats(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="[TOPIC]", help="overview, scenes, statuses, sequences, exposure, visits, quarantine or mix."
        ),
    ] = None,
    sql: Annotated[str | None, typer.Option("--sql", help="A DuckDB query over the views.")] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of a training run: what it has read (visits).")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this dataset.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the views drawn (sequences).")] = 0,
    min_overlap: Annotated[
        float, typer.Option("--min-overlap", help="Least overlap of two linked views (sequences).")
    ] = 0.1,
    catalogs: Catalogs = DEFAULT_CATALOGS,
    format: Format = "table",
) -> None:
    """Answer questions about the catalogs; views: frames, scenes, covisibility, sequences, mined, exposure, ..."""
    from mumdata.stats import legend, sections, stale, stats, topic_of
    from mumdata.tables import render
    from mumdata.visits import doubts

    topic = topic_of(topic, run)
    for line in doubts(run, catalogs, dataset) if run is not None else ():
        print(f"note: {line}", file=sys.stderr)
    for path in stale(catalogs, dataset):
        print(
            f"note: {path} was made from other frames and is left out; "
            f"run 'mumdata mine-sequences {path.parent.name}{_flag(catalogs)}'",
            file=sys.stderr,
        )
    found = stats(topic, sql=sql, catalogs=catalogs, dataset=dataset, run=run, seed=seed, min_overlap=min_overlap)
    below = None if sql is not None else {"scenes": "notes", "quarantine": "detail", "mix": "licence"}.get(topic)
    width = shutil.get_terminal_size((80, 24)).columns
    if topic == "sequences" and sql is None and format == "table":
        for heading, table in sections(found):
            for number, line in enumerate(heading):
                indent = "  " if number else ""
                print(
                    textwrap.fill(line, width, initial_indent=indent, subsequent_indent="    ", break_on_hyphens=False)
                )
            print(textwrap.indent(render(table, width=width - 2), "  ") + "\n")
    else:
        print(render(found, format, below=below))
    if sql is None and format == "table" and (words := legend(topic, seed=seed, min_overlap=min_overlap)):
        print(textwrap.fill(words, width))
    if topic == "overview" and sql is None and format == "table" and found["bad"].sum():
        print("\nbad frames, by status (each file with its reason: mumdata stats quarantine):")
        states = stats("statuses", catalogs=catalogs, dataset=dataset)
        for name, own in states[(states.kind == "frame") & (states.status != "ok")].groupby("dataset"):
            counts = zip(own["count"], own.status, strict=True)
            print(f"  {name}: " + ", ".join(f"{number:,} {status}" for number, status in counts))


@app.command()
def pack(
    mix: Annotated[Path, typer.Argument(metavar="MIX", help="A mix, as written by mumdata mix.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write into; may be moved afterwards.")],
    size: Annotated[
        str, typer.Option("--size", help="Short side in pixels; full: copies of the files as they are.")
    ] = "256",
    quality: Annotated[int, typer.Option("--quality", help="JPEG quality of pictures made smaller.")] = 95,
    shard_gb: Annotated[float, typer.Option("--shard-gb", help="Size of a shard, about.")] = 1.0,
    workers: Workers = None,
) -> None:
    """Copy the images of a mix's sequences, smaller, into a few large files: training reads them much faster."""
    from mumdata.pack import pack

    try:
        packed = pack(mix, out=out, size=size, quality=quality, shard_gb=shard_gb, workers=workers)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on where it was", file=sys.stderr)
        raise typer.Exit(130) from None
    print("\n".join(packed.lines()))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A packed copy, as written by mumdata pack.")],
    workers: Workers = None,
) -> None:
    """Read a packed copy back: catalogs and images against their checksums. Exit status 1: something is damaged."""
    from mumdata.errors import MumError
    from mumdata.pack import verify_packed

    found = verify_packed(folder, workers=workers)
    print("\n".join(found.lines()))
    if found.problems:
        num = f"{len(found.problems):,} problem{'' if len(found.problems) == 1 else 's'}"
        raise MumError(
            f"{folder} is damaged ({num}, above); copy it anew, or run the 'mumdata pack' command that made it again: "
            "it writes anew what is damaged, all but packed.json"
        )


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write the files into.")],
    format: Annotated[
        str, typer.Option("--format", help="d2net: its matrices; pairs: a list of image pairs.")
    ] = "d2net",
    split: Annotated[str | None, typer.Option("--split", help="Only this split.")] = None,
    scene: Annotated[str | None, typer.Option("--scene", help="Only this scene.")] = None,
    min_overlap: Annotated[float, typer.Option("--min-overlap", help="pairs: least overlap, either way.")] = 0.1,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Frames whose files are missing, too.")
    ] = False,
    catalogs: Catalogs = DEFAULT_CATALOGS,
) -> None:
    """Write what frames share for other tools: a file for each scene and stream."""
    from mumdata.export import export

    paths = export(
        name,
        format=format,
        out=out,
        catalogs=catalogs,
        split=split,
        scene=scene,
        min_overlap=min_overlap,
        allow_missing=allow_missing,
    )
    print(f"{name}: {len(paths):,} file{'' if len(paths) == 1 else 's'} in {out}, the first: {paths[0]}")


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the rendered datasets into.")],
    size: Annotated[str, typer.Option("--size", help="default or tiny.")] = "default",
    seed: Seed = 0,
    archives: Annotated[
        bool, typer.Option("--archives", help="Write them packed, too: zips and tars in OUT/archives.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Render small datasets in their true layouts, to try everything on."""
    from mumdata.demo.layouts import NAMES
    from mumdata.demo.world import demo

    demo(out, size=size, seed=seed, archives=archives, workers=workers)
    for name in NAMES:
        print(f"mumdata index {name} --root {out / name}")
    if archives:
        print(f"the same in archives: {out / 'archives'}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {status}" for status, number in sorted(counts.items(), key=lambda item: -item[1]))


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text, 80, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def _size(num_bytes: int) -> str:
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _count_or_auto(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither a number nor auto", param_hint="--per-scene") from None


def _band(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not LOW:HIGH, such as 0.2:0.6", param_hint="--overlap") from None


def _with_catalogs(message: str) -> str:
    # commands that an error names are for the catalogs that were given
    given = [value for flag, value in itertools.pairwise(sys.argv) if flag == "--catalogs"]
    if not given:
        return message
    option = f" --catalogs {shlex.quote(given[-1])}"
    return re.sub(r"'(mumdata (?:index|mine-sequences|mix|stats)\b[^']*)'", rf"'\1{option}'", message)


def _flag(catalogs: Path) -> str:
    return "" if catalogs == DEFAULT_CATALOGS else f" --catalogs {catalogs}"


def main() -> None:
    """Run the command line."""
    run(app, _with_catalogs)
