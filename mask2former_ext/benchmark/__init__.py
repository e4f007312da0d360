"""What tools/benchmark.py measures, and the measuring: time in turn, peak memory, reports."""
