"""`python -m uio2.train` is `uio2 train`."""

import sys

from uio2.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
