"""What leaves idejax for the diffusers world, and what comes in from there; `idejax export`, `idejax convert`."""
