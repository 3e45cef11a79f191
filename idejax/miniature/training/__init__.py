"""The recipe of the built-in model, its face pack and its judges."""
