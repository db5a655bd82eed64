"""Work over processes: nobody stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_PROGRAM = """
import os, sys, time
from pathlib import Path
from mumdata import engine

def work(folder, number):
    Path(folder, str(os.getpid())).touch()
    time.sleep(0.2)

if __name__ == "__main__":
    for _ in engine.each(work, list(range(400)), 3, "working", shared=sys.argv[1]):
        pass
"""


def alive(process: int) -> bool:
    try:
        # a process whose parent does not collect it stays as a zombie
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "seen"
    folder.mkdir()
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(program), str(folder)])
    try:
        until = time.monotonic() + 60
        while len(os.listdir(folder)) < 3 and time.monotonic() < until:
            time.sleep(0.05)
        workers = [int(name) for name in os.listdir(folder) if int(name) != parent.pid]
        assert len(workers) == 2, "the others never began"
    finally:
        parent.kill()
        parent.wait()
    until = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))
