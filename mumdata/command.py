"""How a command ends: what mumdata and mumtrain share as programs.

In: a typer app. Out: exit status 0; 1 with one line on standard error for an expected failure; 2 for wrong usage.
Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperCommand

from mumdata.errors import MumError

__all__ = ["Sections", "run"]


class Sections(TyperCommand):
    """A command with many options: its help lists them in sections, by their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, section by section, in the order in which the sections first occur."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if param.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def run(app: typer.Typer, worded: Callable[[str], str] = str) -> None:
    """Run a typer app and end the process as described above; a closed pipe is quiet.

    `worded` may change an error's message before it is printed.
    """
    try:
        app()
    except MumError as error:
        with suppress(OSError):
            print("error: " + " ".join(worded(str(error)).split()), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        pass
    finally:
        _mute()


def _mute() -> None:
    # whoever read the output may have closed it: the interpreter must not flush into it once more, which would change
    # the exit status
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
