"""The command `mumtrain`: thin wrappers over the public functions.

In: arguments. Out: exit status 0, 1 for an expected failure (one line on standard error), 2 for wrong usage.
Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mumdata.command import run as run_app

__all__ = ["app", "main", "pretrain", "reconstruct", "demo"]

app = typer.Typer(
    name="mumtrain",
    help="Pre-train multi-view masked autoencoders on a mix of sequences, and look at what they learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default CUDA where there is one.")]


@app.callback()
def _commands() -> None:
    # a callback keeps the verbs as sub-commands, however many there are
    pass


@app.command()
def pretrain(
    mix: Annotated[Path, typer.Argument(help="The mix to train on, as written by mumdata mix.", metavar="MIX")],
    recipe: Annotated[str, typer.Option(help="The run: mum-vitl16, mum-vitb16 or debug-cpu.")] = "mum-vitl16",
    set: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one value of the recipe, e.g. optim.lr=1e-4; may be given again."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder [default: runs/MIX-RECIPE].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    device: Device = None,
) -> None:
    """Train a model on a mix of sequences.

    The run's folder receives checkpoints, metrics.jsonl, TensorBoard's files and the settings.
    """
    from mumtrain.train import pretrain as run

    try:
        folder = run(mix, recipe=recipe, set=set or [], out=out, resume=resume, device=device)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command with --resume continues from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    typer.echo(folder)


@app.command()
def reconstruct(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run's folder for its newest one.")],
    images: Annotated[list[Path], typer.Argument(help="Images of one scene.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("reconstruction.png"),
    seed: Annotated[int, typer.Option(help="Another seed hides other patches.")] = 0,
    views: Annotated[
        bool, typer.Option("--views/--single", help="All images together as views of a scene, or each by itself.")
    ] = True,
    device: Device = None,
) -> None:
    """Draw a model's predictions of hidden patches.

    Three rows: the images, what is left of them for the model to see, and what it makes of that.
    """
    from mumtrain.reconstruct import reconstruct as run

    typer.echo(run(checkpoint, images, out=out, seed=seed, views=views, device=device))


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


def main() -> None:
    """Run the command line."""
    # OpenMP's threads spin while they wait for each other: where another program wants a core, too, small steps then
    # take seven times as long (measured on two cores). It has to be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    run_app(app)
