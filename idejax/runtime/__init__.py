"""The machine: processes, cores, progress, time, FLOPs."""
