"""`python -m idejax.cli` is the installed command."""

import sys

from idejax.cli.command import main

sys.exit(main())
