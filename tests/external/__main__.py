"""`python -m tests.external [aimock|llama|litellm]...`: see README.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from tests.conftest import FOREIGN
from tests.external.checks import Checks, line
from tests.external.servers import NotInstalledError

SERVERS = ("aimock", "llama", "litellm")


def main() -> int:
    """Run the checks of the servers that are named, else of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.external", description=__doc__)
    parser.add_argument("servers", nargs="*", choices=[[], *SERVERS], metavar="|".join(SERVERS), help="default: all")
    names: list[str] = parser.parse_args().servers or list(SERVERS)
    for name in list(os.environ):
        if (name.startswith("KITARU_") and name != "KITARU_HTTP") or name == "OLLAMA_HOST" or name.endswith(FOREIGN):
            del os.environ[name]
    failed, total, absent = [], 0, []
    for name in names:
        checks = Checks(name)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["KITARU_HOME"] = f"{folder}/home"
            os.environ["KITARU_STORE"] = f"sqlite:///{folder}/default.db"
            os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
            try:
                asyncio.run(import_module(f"tests.external.{name}").run(checks, Path(folder)))
            except NotInstalledError as error:
                absent.append(name)
                print(f"----  {name}: {error}")
        failed += [row for row in checks.rows if row.problem]
        total += len(checks.rows)
    print(f"\n{total} checks, {len(failed)} failed")
    for row in failed:
        print(line(row))
    return 1 if failed or absent else 0


if __name__ == "__main__":
    sys.exit(main())
