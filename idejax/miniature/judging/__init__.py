"""Judges of the drawn world that no training listens to, and the exam of the built-in model."""
