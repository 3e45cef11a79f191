"""Compiles a training step for devices that this machine does not have, and reports what it needs."""
