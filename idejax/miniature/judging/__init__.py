"""Judges of the drawn world, which no training uses, and the exam of the built-in model."""
