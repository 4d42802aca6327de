"""Run one part of a workload and print what it measured: `python -m benchmarks.child NAME PART FOLDER`."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    workload, part, folder = sys.argv[1:]
    measured = import_module(f"benchmarks.{workload}").WORKLOAD.part(part)(Path(folder))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
