"""The command `mumtrain`: thin wrappers over the public functions.

In: arguments. Out: exit status 0, 1 for an expected failure (one line on standard error), 2 for wrong usage.
Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from mumdata.command import Sections
from mumdata.command import run as run_app
from mumdata.errors import CatalogError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "app",
    "main",
    "pretrain",
    "plan",
    "batch",
    "bench_data",
    "bench_model",
    "bench_train",
    "recipes",
    "features",
    "reconstruct",
    "attention",
    "export",
    "gain",
    "replay",
    "slurm",
    "card",
    "demo",
]

app = typer.Typer(
    name="mumtrain",
    help="Pre-train multi-view masked autoencoders on a mix of sequences, and look at what they learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

bench = typer.Typer(
    help="Measure on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(bench, name="bench")


def _mix_file(path: Path) -> Path:
    # before anything is imported: what is certainly no mix, and which file is one
    if path.is_dir():
        near = next((near for at in ("mix.parquet", "catalogs/mix.parquet") if (near := path / at).is_file()), None)
        raise CatalogError(f"{path} is a folder; give the mix.parquet file{f', {near}' if near else ''}")
    if path.name in _CATALOGS and path.is_file():
        near = next(
            (near for near in (path.parent / "mix.parquet", path.parent.parent / "mix.parquet") if near.is_file()), None
        )
        raise CatalogError(f"{path} is not a mix; {f'give {near}' if near else 'make one with mumdata mix'}")
    return path


def _optional_mix(path: Path | None) -> Path | None:
    return None if path is None else _mix_file(path)


# stands in a command for what the user fills in
_IMAGES = "IMAGE..."

# what lies beside a mix and is none
_CATALOGS = ("frames.parquet", "scenes.parquet", "sequences.parquet", "covisibility.parquet", "quarantine.parquet")

MixPath = Annotated[Path, typer.Argument(help="A mix, as written by mumdata mix.", metavar="MIX", callback=_mix_file)]
Recipe = Annotated[str, typer.Option(help="The run; mumtrain recipes lists them.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one value of the recipe, e.g. optim.lr=1e-4; may be given again. All of them: mumtrain recipes "
        "NAME.",
    ),
]
Format = Annotated[str, typer.Option("--format", help="table, json or csv.")]
Weights = Annotated[
    Path,
    typer.Argument(help="A run's folder, a checkpoint, or a file of weights.", metavar="CHECKPOINT"),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default CUDA where there is one.")]


@app.callback()
def _commands() -> None:
    # a callback keeps the verbs as sub-commands, however many there are
    pass


@app.command(cls=Sections)
def pretrain(
    mix: MixPath,
    recipe: Recipe = "mum-vitl16",
    set: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder [default: runs/MIX-RECIPE].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Continue it with another mix or other settings.")
    ] = False,
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Start from the weights of a run, an exported file or a released MuM file."),
    ] = None,
    init_parts: Annotated[
        str, typer.Option("--init-parts", help="What is taken of them: encoder, all, or auto, what fits.")
    ] = "auto",
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read a sample of every dataset and estimate hours and memory; no run.")
    ] = False,
    ranks: Annotated[
        int | None, typer.Option("--ranks", help="Devices of the run that is estimated [default: one for each slot].")
    ] = None,
    num: Annotated[int, typer.Option("--num", help="Images of each dataset that a dry run reads.")] = 8,
    format: Annotated[str, typer.Option("--format", help="Of a dry run: table, json or csv.")] = "table",
) -> None:
    """Train a model on a mix of sequences.

    The run's folder receives checkpoints, metrics.jsonl, TensorBoard's files and the settings.
    """
    if dry_run:
        from mumtrain.dry_run import dry_run as estimate

        with _quiet():  # what is logged, the estimate says itself
            found = estimate(mix, recipe=recipe, set=set or [], device=device, num=num, ranks=ranks)
        _show(found, format)
        if format == "table":
            typer.echo(f"next: {_pretrain(mix, recipe, set or [])}")
        return
    from mumtrain.signals import STOPPED, Stopped, stop_request

    try:
        with stop_request():  # signals count from the start, before all that takes seconds to load
            from mumtrain.ranks import find_place
            from mumtrain.train import pretrain as run

            is_first = find_place().rank == 0  # of several processes one speaks for all
            folder = run(
                mix,
                recipe=recipe,
                set=set or [],
                out=out,
                resume=resume,
                accept_changes=accept_changes,
                init=init,
                init_parts=init_parts,
                device=device,
            )
    except Stopped as stopped:
        if is_first:
            with suppress(OSError):
                typer.echo(stopped, err=True)
        raise typer.Exit(STOPPED) from None
    except KeyboardInterrupt:
        # a second one, while the interpreter shuts down, would end it as a signal does
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OSError):
            typer.echo("interrupted; --resume continues from the last checkpoint, if there was one", err=True)
        raise typer.Exit(130) from None
    if not is_first:
        return
    with suppress(OSError):  # days of training are no failure because nobody reads where they are
        typer.echo(folder)
        # beside the folder's name, which a script may want by itself
        typer.echo(f"next: {_command('reconstruct', str(folder), _IMAGES, '-o', 'reconstruction.png')}", err=True)
        typer.echo(f"      (images of one scene; what the run is and how it went: {folder / 'card.md'})", err=True)


@app.command()
def plan(
    mix: MixPath,
    recipe: Recipe = "mum-vitl16",
    set: Settings = None,
    ranks: Annotated[
        int | None, typer.Option(help="Devices that share the slots [default: one for each slot].")
    ] = None,
    num: Annotated[int, typer.Option("--num", help="Batches whose frames are looked up, 0 for none.")] = 2000,
    format: Format = "table",
) -> None:
    """Tell what a run would read, before it runs.

    Shares of steps, sequences and frames, how often each is seen, what drawn frames share, and what waiting costs.
    """
    from mumtrain.plan import plan as run

    with _quiet():  # what is logged, the plan says itself
        found = run(mix, recipe=recipe, set=set or [], ranks=ranks, num=num)
    _show(found, format)
    if format == "table":
        typer.echo(f"next: {_pretrain(mix, recipe, set or [])}")


@app.command()
def batch(
    mix: MixPath,
    step: Annotated[int, typer.Option("--step", help="The step, counted from 1 as in metrics.jsonl.")],
    slot: Annotated[int, typer.Option("--slot", help="The slot of that step, counted from 0.")] = 0,
    recipe: Recipe = "mum-vitl16",
    set: Settings = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's config.json, in place of a recipe and its settings.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("batch.png"),
    format: Format = "table",
) -> None:
    """Draw what a slot reads at a step: a contact sheet of its views, before patches of them are hidden.

    Images that cannot be read are red, with what stands in their place. json and csv list every frame.
    """
    from mumtrain.batch import batch as run

    _show(run(mix, step=step, slot=slot, recipe=recipe, set=set or [], config=config, out=out), format)


@bench.command("data")
def bench_data(
    mix: MixPath,
    recipe: Recipe = "mum-vitl16",
    set: Settings = None,
    workers: Annotated[
        list[int] | None, typer.Option("--workers", help="Decoding processes to try; may be given again.")
    ] = None,
    sizes: Annotated[list[int] | None, typer.Option("--size", help="Sides of the views to try, in pixels.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each number of workers is tried.")] = 5.0,
    gpu: Annotated[str, typer.Option("--gpu", help="The device to feed.")] = "H200",
    format: Format = "table",
) -> None:
    """Measure how fast frames are read and decoded here, and how many cores a device needs to be fed.

    Nothing is trained. By dataset and place of the bytes, by size, and by the number of decoding processes.
    """
    from mumtrain.bench_data import bench_data as run

    found = run(mix, recipe=recipe, set=set or [], workers=workers, sizes=sizes, seconds=seconds, gpu=gpu)
    _show(found, format)
    if format == "table":
        typer.echo(f"next: {_pretrain(mix, recipe, [*(set or []), f'data.workers={found.best_workers}'])}")


@bench.command("model")
def bench_model(
    recipe: Recipe = "mum-vitl16",
    set: Settings = None,
    views: Annotated[
        list[int] | None, typer.Option("--views", help="Numbers of views to try; may be given again.")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", help="Frames of a batch [default: the recipe's; on the processor, one sequence]."),
    ] = None,
    sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--size", help="Sides of the views to try, in pixels; may be given again [default: the recipe's]."
        ),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile/--eager", help="Try the compiled model, too.")] = True,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each is tried.")] = 5.0,
    device: Device = None,
    format: Format = "table",
) -> None:
    """Measure training steps here: frames/s, the share of what the device can do, and memory.

    Views are made up; no file is read.
    """
    from mumtrain.bench_model import bench_model as run

    _show(
        run(
            recipe=recipe,
            set=set or [],
            views=views,
            frames=frames,
            sizes=sizes,
            compile=compile,
            seconds=seconds,
            device=device,
        ),
        format,
    )


@bench.command("train")
def bench_train(
    mix: MixPath,
    recipe: Recipe = "mum-vitl16",
    set: Settings = None,
    steps: Annotated[int, typer.Option("--steps", help="Timed steps of a turn.")] = 20,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each way is timed, at least two turns.")] = 60.0,
    devices: Annotated[
        int | None,
        typer.Option("--devices", help="Devices of the run, for its hours [default: those of this machine]."),
    ] = None,
    device: Device = None,
    format: Format = "table",
) -> None:
    """Measure whole training steps on a mix: frames/s, waiting for data, and the hours of the run.

    Beside the recipe's model a plain baseline trains on the same slots. Nothing is written.
    """
    from mumtrain.bench_train import bench_train as run

    _show(run(mix, recipe=recipe, set=set or [], steps=steps, seconds=seconds, devices=devices, device=device), format)


@app.command(cls=Sections)
def features(
    checkpoint: Weights,
    images: Annotated[list[Path], typer.Argument(help="Images, folders of images, or one catalog (catalogs/NAME).")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HDF5 file to write, e.g. features.h5.")] = None,
    pca: Annotated[Path | None, typer.Option("--pca", help="A picture of the principal components to draw.")] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="The layer, counted from 0; -1 is the last [default: the last].")
    ] = None,
    norm: Annotated[bool, typer.Option("--norm/--no-norm", help="Apply the final norm.")] = True,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", help="S: centred squares; short:S: whole images; native: as they are [default: the model's]."
        ),
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="patches, class or both.")] = "patches",
    views: Annotated[
        bool, typer.Option("--views", help="All images together as views of a scene: tokens of the decoder.")
    ] = False,
    where: Annotated[
        str | None, typer.Option("--where", help="An SQL condition that chooses frames of the catalog.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images that go through the model together.")] = 32,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Threads that decode [default: 1, on CUDA up to 16].")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float16 or float32, as which tokens are stored.")] = "float16",
    device: Device = None,
) -> None:
    """Store what a model makes of images: tokens in an HDF5 file, principal components in a picture.

    An interrupted run continues when the same command is given again.
    """
    from mumtrain.features import features as run

    try:
        found = run(
            checkpoint,
            images,
            out=out,
            pca=pca,
            layer=layer,
            norm=norm,
            size=size,
            kind=kind,
            views=views,
            where=where,
            batch=batch,
            workers=workers,
            dtype=dtype,
            device=device,
        )
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as above
        with suppress(OSError):
            typer.echo("interrupted; the same command continues", err=True)
        raise typer.Exit(130) from None
    for line in found.lines():
        typer.echo(line)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="A recipe, to see all its settings.")] = None) -> None:
    """List the recipes, or all settings of one of them: their values and what they mean."""
    from mumtrain.settings_text import recipe_lines, setting_lines

    width = min(100, shutil.get_terminal_size((80, 24)).columns)
    for line in recipe_lines(width) if name is None else setting_lines(name, width):
        typer.echo(line)


@app.command()
def reconstruct(
    checkpoint: Weights,
    images: Annotated[list[Path], typer.Argument(help="Images of one scene.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("reconstruction.png"),
    seed: Annotated[int, typer.Option(help="Another seed hides other patches.")] = 0,
    views: Annotated[
        bool, typer.Option("--views/--single", help="All images together as views of a scene, or each by itself.")
    ] = True,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", help="Hide patches in another way, e.g. mask.ratio=0.9; may be given again."),
    ] = None,
    device: Device = None,
) -> None:
    """Draw a model's predictions of hidden patches.

    Rows: the images, what is left of them for the model to see, what it makes of that, and how far it trusts it where
    it says so.
    """
    from mumtrain.reconstruct import reconstruct as run

    typer.echo(run(checkpoint, images, out=out, seed=seed, views=views, set=set or [], device=device))


@app.command()
def attention(
    checkpoint: Weights,
    image_a: Annotated[Path, typer.Argument(help="The image whose patches look.", metavar="A")],
    image_b: Annotated[Path, typer.Argument(help="The image that they look at.", metavar="B")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("attention.png"),
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="X,Y",
            help="A point of A's square, from left and top in 0 .. 1; may be given again [default: three points].",
        ),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="One block that sees both views [default: all of them].", show_default=False)
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="One head, or all of them side by side [default: their mean].", metavar="N|all")
    ] = None,
    device: Device = None,
) -> None:
    """Draw where patches of one view look in another.

    For each point a row: A with its patch marked, and over B the attention that it pays in each block that sees both.
    """
    from mumtrain.attention import attention as run
    from mumtrain.attention import read_head, read_point

    points = [read_point(text) for text in at] if at else None
    chosen = None if head is None else read_head(head)
    typer.echo(run(checkpoint, image_a, image_b, out=out, at=points, layer=layer, head=chosen, device=device))


@app.command()
def export(
    checkpoint: Weights,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    format: Annotated[
        str, typer.Option("--format", help="safetensors, released, timm, dinov3 or onnx.")
    ] = "safetensors",
    whole: Annotated[bool, typer.Option("--whole", help="The decoder, too (safetensors and released).")] = False,
    size: Annotated[int | None, typer.Option("--size", help="Side of the images in pixels (onnx, timm).")] = None,
) -> None:
    """Write a model's weights for others to load.

    By default the encoder and its settings, as this program reads them back; other layouts where they compute the same.
    """
    from mumtrain.weights import export as run

    found = run(checkpoint, out=out, format=format, whole=whole, size=size)
    typer.echo(found.note, err=True)
    typer.echo(found.path)


@app.command(cls=Sections)
def slurm(
    mix: MixPath,
    recipe: Recipe = "mum-vitl16",
    set: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder [default: runs/MIX-RECIPE].")
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", help="Start from these weights, as pretrain does.")] = None,
    init_parts: Annotated[str, typer.Option("--init-parts", help="encoder, all or auto.")] = "auto",
    nodes: Annotated[int, typer.Option("--nodes", help="Machines.")] = 1,
    gpus_per_node: Annotated[
        int, typer.Option("--gpus-per-node", help="GPUs of each; all together divide data.slots.")
    ] = 8,
    cpus_per_gpu: Annotated[int, typer.Option("--cpus-per-gpu", help="Cores for each GPU.")] = 16,
    time: Annotated[str, typer.Option("--time", help="Limit of one job, as sbatch takes it.")] = "24:00:00",
    partition: Annotated[str | None, typer.Option("--partition", help="As for sbatch.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="As for sbatch.")] = None,
    qos: Annotated[str | None, typer.Option("--qos", help="As for sbatch.")] = None,
    mem: Annotated[str | None, typer.Option("--mem", help="Memory of a node, as for sbatch.")] = None,
    signal_seconds: Annotated[
        int, typer.Option("--signal-seconds", help="So long before the limit the run saves and requeues.")
    ] = 120,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            "--setup",
            help="A shell line that makes mumtrain available, e.g. 'source venv/bin/activate'; may be given again.",
        ),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            "--sbatch", help="A further option of sbatch, e.g. --sbatch=--constraint=h200; may be given again."
        ),
    ] = None,
    submit: Annotated[
        bool, typer.Option("--submit/--no-submit", help="Hand it to sbatch, or only write RUN/slurm.sh.")
    ] = True,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Continue the run with another mix or other settings.")
    ] = False,
) -> None:
    """Train on a Slurm cluster: write a batch script, check what can be checked, and submit it.

    The job saves before its time is over and goes back into the queue until the run is done.
    """
    from mumtrain.slurm import slurm as run

    found = run(
        mix,
        recipe=recipe,
        set=set or [],
        out=out,
        init=init,
        init_parts=init_parts,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_gpu=cpus_per_gpu,
        time=time,
        partition=partition,
        account=account,
        qos=qos,
        mem=mem,
        signal_seconds=signal_seconds,
        setup=setup or [],
        sbatch=sbatch or [],
        submit=submit,
        accept_changes=accept_changes,
    )
    typer.echo(found.script if found.job is None else found.job)
    typer.echo(f"next: {shlex.join(found.command)}" if found.job is None else f"wrote {found.script}", err=True)


@app.command()
def card(run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")]) -> None:
    """Write a run's card anew: RUN/card.md and card.json, what it is, what it read, and how it went."""
    from mumtrain.card import card as write

    typer.echo(write(run))


@app.command()
def replay(
    source: Annotated[Path, typer.Argument(help="RUN/bad-step-..., or a run's folder.", metavar="FOLDER")],
    step: Annotated[int | None, typer.Option("--step", help="A step of the run, counted from 1.")] = None,
    device: Device = None,
    float32: Annotated[bool, typer.Option("--float32", help="In float32 alone, on CUDA as well.")] = False,
    format: Format = "table",
) -> None:
    """Run a step of a run again, to see what was wrong with it."""
    from mumtrain.replay import replay as run

    _show(run(source, step=step, device=device, float32=float32), format)


@app.command()
def gain(
    run: Weights,
    mix: Annotated[
        Path | None, typer.Option("--mix", help="The mix [default: the run's].", callback=_optional_mix)
    ] = None,
    device: Device = None,
    format: Format = "table",
) -> None:
    """Tell whether a model uses its other views: the cross-view gain on samples of a mix's correspondences.

    Needs the mix's correspondences: mumdata correspondences MIX.
    """
    from mumtrain.gain import gain as measure

    _show(measure(run, mix=mix, device=device), format)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to work in.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed renders another world and trains another model.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Training steps [default: a few minutes' worth].")] = None,
) -> None:
    """Show the whole journey on rendered scenes.

    Renders a small world, indexes and mines it, trains on it and draws reconstructions: some minutes on two cores.
    """
    from mumtrain.demo import demo as run

    run(out, seed=seed, steps=steps)


class _Report(Protocol):
    # what a command found: as JSON values, as rows, and as headings (their lines) each with a narrow table or none
    def to_dict(self) -> dict[str, Any]: ...
    def to_frame(self) -> pd.DataFrame: ...
    def tables(self) -> Iterable[tuple[list[str], pd.DataFrame | None]]: ...


def _show(found: _Report, format: str) -> None:
    from mumdata.tables import render

    if format == "json":
        print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
        return
    if format != "table":
        print(render(found.to_frame(), format))
        return
    width = shutil.get_terminal_size((80, 24)).columns
    for heading, table in found.tables():
        for number, line in enumerate(heading):
            indent = "  " if number else ""
            print(textwrap.fill(line, width, initial_indent=indent, subsequent_indent="    ", break_on_hyphens=False))
        if table is not None:
            print(textwrap.indent(render(table, width=width - 2), "  ") + "\n")


def _pretrain(mix: Path, recipe: str, set: Sequence[str]) -> str:
    return _command("pretrain", str(mix), "--recipe", recipe, *(word for one in set for word in ("--set", one)))


def _command(*words: str) -> str:
    # in a shell's own way of folding a long line, so that it can be copied; an option stays with its value
    lines, width = ["mumtrain"], shutil.get_terminal_size((80, 24)).columns - len("next:  \\")
    parts: list[str] = []
    for word in words:
        if len(parts) > 1 and parts[-1].startswith("-") and " " not in parts[-1]:
            parts[-1] += f" {_quoted(word)}"
        else:
            parts.append(_quoted(word))
    for part in parts:
        if len(lines[-1]) + len(part) + 1 > width:
            lines.append("   ")
        lines[-1] += f" {part}"
    return " \\\n".join(lines)


def _quoted(word: str) -> str:
    return word if word == _IMAGES else shlex.quote(word)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("mumtrain")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Wrapped(logging.Formatter):
    """One warning to a paragraph that fits a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's message behind its level."""
        text = f"{record.levelname.lower()}: {super().format(record)}"
        width = shutil.get_terminal_size((80, 24)).columns
        return textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)


def main() -> None:
    """Run the command line."""
    # OpenMP's threads spin while they wait for each other: where another program wants a core, too, small steps then
    # take seven times as long (measured on two cores). It has to be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    handler = logging.StreamHandler()
    handler.setFormatter(_Wrapped())
    logging.basicConfig(handlers=[handler])
    run_app(app)
