"""The command `idejax`: commands, options, config files, and the options of methods."""

from idejax.cli.command import main

__all__ = ["main"]
