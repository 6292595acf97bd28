"""The benchmark: sse-hub beside what a user would pick instead. `python -m bench.run --help`."""
