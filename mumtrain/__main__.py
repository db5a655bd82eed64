"""`python -m mumtrain` is the command `mumtrain`."""

from mumtrain.cli import main

main()
