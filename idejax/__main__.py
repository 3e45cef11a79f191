"""`python -m idejax`: the same as `idejax`."""

import sys

from idejax.cli import main

sys.exit(main())
