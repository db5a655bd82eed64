"""`python -m mumdata` is the command `mumdata`."""

from mumdata.cli import main

main()
