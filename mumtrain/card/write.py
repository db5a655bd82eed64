"""`mumtrain card RUN`: the card of a run, for people and for programs.

In: a run's folder. Out: RUN/card.md and RUN/card.json, which say the same.
"""

from __future__ import annotations

import json
from pathlib import Path

from mumdata.files import write_text
from mumtrain.card.facts import gather_facts
from mumtrain.card.text import markdown

__all__ = ["card", "write_card"]


def card(run: Path) -> Path:
    """Write the card of a run anew, finished or not, and return the path of card.md; raises as `write_card` does."""
    write_card(run)
    return Path(run, "card.md")


def write_card(run: Path) -> None:
    """Write RUN/card.md and RUN/card.json from what lies in a run's folder, and from its mix where that is still there.

    Whatever else is missing or damaged is told in the card. Raises MumError where the folder is not that of a run, and
    ConfigError where its config.json is not that of this version.
    """
    run = Path(run)
    facts = gather_facts(run)
    write_text(run / "card.json", json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(run / "card.md", markdown(facts))
