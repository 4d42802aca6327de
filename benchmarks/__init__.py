"""What Kitaru costs, measured beside the limits of the machine it runs on: `python -m benchmarks`."""
