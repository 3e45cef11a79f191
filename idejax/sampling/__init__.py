"""Prompts, with people in them -> pictures."""
