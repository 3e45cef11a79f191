"""The training core: a step, the loop around it, checkpoints, and how a method is fitted."""
