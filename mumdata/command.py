"""How a command ends: what mumdata and mumtrain share as programs.

In: a typer app. Out: exit status 0; 1 with one line on standard error for an expected failure; 2 for wrong usage.
Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from mumdata.errors import MumError

__all__ = ["run"]


def run(app: typer.Typer, worded: Callable[[str], str] = str) -> None:
    """Run a typer app and end the process as described above; a closed pipe is quiet.

    `worded` may change an error's message before it is printed.
    """
    try:
        app()
    except MumError as error:
        print("error: " + " ".join(worded(str(error)).split()), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # whoever read the output has closed it; the interpreter must not flush into it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
