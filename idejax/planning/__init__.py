"""Compiling a training step for devices that are not there, and reading what it will need."""
