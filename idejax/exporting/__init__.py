"""To and from the formats of the diffusers world: `idejax export`, `idejax convert`."""
