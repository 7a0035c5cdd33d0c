"""`python -m sidewinder` is the same as the command `sidewinder`; ranks are started by it."""

from sidewinder.cli import main
from sidewinder.train.parallel.spawn import follow_launcher

follow_launcher()
main()
