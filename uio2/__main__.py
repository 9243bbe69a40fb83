"""`python -m uio2` is `uio2`."""

import sys

from uio2.cli.main import main

sys.exit(main())
