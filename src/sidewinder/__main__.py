"""`python -m sidewinder` is the same as the command `sidewinder`."""

from sidewinder.cli import main

main()
