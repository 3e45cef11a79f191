"""torch state dict <-> Flax params. A parameter's path IS its checkpoint key; only leaves differ.

A `*` in a path marks a scanned run of blocks: `blocks.*.proj` of shape (N, I, O) is
`blocks.0.proj` .. `blocks.{N-1}.proj` on disk.
"""
