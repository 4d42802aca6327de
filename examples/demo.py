"""The whole story with the real commands: run, kill -9, resume, replay, edit a prompt, replay again, verify.

A stand-in model server counts every request, so that what is claimed is counted and not believed. Ends with exit code 1
if anything is not as expected. `make demo` runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
QUESTION = "Who may declare war, and who commands the army?"
PATIENCE = 20.0
"""Seconds after which a thing that should have happened is given up."""

LAST_PROMPT = "Rewrite the answer so that the criticism no longer holds."
EDITED_PROMPT = "Rewrite the answer in plain words, so that the criticism no longer holds."


class Demo:
    """The commands, run in a folder of their own, and what was found out about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KITARU_")},
            "KITARU_STORE": f"sqlite:///{folder}/runs.db",
            "KITARU_HOME": str(folder / "home"),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
        }
        self.environment.pop("NO_COLOR", None)
        self.url = ""
        self.failed = 0
        self.facts: list[tuple[bool, str]] = []

    # -- commands -----------------------------------------------------------------------------------------------------

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([*program(), *words], cwd=self.folder, env=self.environment, text=True, **options)

    def start(self, *words: str) -> tuple[subprocess.Popen[str], threading.Thread]:
        """Start a command and print its output as it comes."""
        typed = " ".join(f'"{word}"' if " " in word else word for word in words)
        print(f"\n$ kitaru {typed}", flush=True)
        process = self.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        lines = process.stdout

        def pump() -> None:
            for line in lines:
                print(f"  {line}", end="", flush=True)

        thread = threading.Thread(target=pump)
        thread.start()
        return process, thread

    def run(self, *words: str) -> int:
        process, thread = self.start(*words)
        process.wait()
        thread.join()
        return process.returncode

    def ask(self, *words: str) -> Any:
        """The JSON that a command prints; not shown."""
        process = self.popen(*words, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, errors = process.communicate(timeout=PATIENCE)
        if process.returncode != 0:
            raise SystemExit(f"kitaru {' '.join(words)} ended with {process.returncode}:\n{errors}")
        return json.loads(out)

    # -- the server ---------------------------------------------------------------------------------------------------

    @contextmanager
    def server(self) -> Iterator[None]:
        journal = self.folder / "requests.jsonl"
        words = ("mock-llm", "--latency", "0.3-1.2", "--journal", str(journal), "--json")
        process = self.popen(*words, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the stand-in model server did not start")
            ready = json.loads(line)
            self.url = ready["base_url"]
            self.environment.update(ready["environment"])
            print(f"A stand-in model server answers at {self.url}; each answer takes 0.3 to 1.2 s.")
            yield
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)

    def counts(self) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/_kitaru/requests", timeout=PATIENCE) as answer:  # noqa: S310 - our own server
            return json.load(answer)

    # -- what is claimed ----------------------------------------------------------------------------------------------

    def claim(self, holds: bool, what: str) -> None:
        self.facts.append((holds, what))
        self.failed += not holds
        print(f"  {'ok  ' if holds else 'NOT '} {what}", flush=True)


def program() -> list[str]:
    """The installed command, or, in a checkout without one, its entry point."""
    beside = Path(sys.executable).parent / "kitaru"
    found = str(beside) if beside.exists() else shutil.which("kitaru")
    return [found] if found else [sys.executable, "-c", "from kitaru.cli.app import main; main()"]


def prompt_of(demo: Demo, run: str, boundary: dict[str, Any]) -> str:
    """The prompt of a model call, as far as the server's counter shows it."""
    text: str = demo.ask("show", run, str(boundary["seq"]))["messages"][-1]["content"]
    return text[:120]


def calls_in(view: dict[str, Any], state: str) -> list[dict[str, Any]]:
    return [b for b in view["boundaries"] if b["kind"] == "llm" and b["state"] == state]


def story(demo: Demo) -> None:
    print("\n--- A run is killed in the middle ---")
    process, thread = demo.start("run", "research_writer.py:research_writer", "--input", f"question={QUESTION}")
    until = time.monotonic() + PATIENCE
    while True:
        seen = demo.counts()
        if seen["finished"] >= 3 and seen["in_flight"] >= 1:
            break
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise SystemExit("the run ended before it could be killed")
        time.sleep(0.01)
    process.kill()
    process.wait()
    thread.join()
    print(f"  kill -9: {seen['finished']} calls answered, {seen['in_flight']} under way")

    demo.run("show", "last")
    killed = demo.ask("show", "last")
    run = killed["id"]
    done = [prompt_of(demo, run, b) for b in calls_in(killed, "done")]
    doubtful = [prompt_of(demo, run, b) for b in calls_in(killed, "in doubt")]
    demo.claim(killed["status"] == "interrupted", "the run is shown as interrupted")
    demo.claim(bool(done) and bool(doubtful), f"{len(done)} calls are recorded, {len(doubtful)} are shown as in doubt")

    print("\n--- It is resumed ---")
    code = demo.run("resume", "last")
    after = demo.counts()
    made = {prompt["text"]: prompt["total"] for prompt in after["prompts"]}
    once = [text for text, times in made.items() if times == 1]
    twice = [text for text, times in made.items() if times == 2]
    demo.claim(code == 0, "the resumed run completed")
    demo.claim(all(made.get(text) == 1 for text in done), f"each of the {len(done)} recorded calls was made once")
    demo.claim(sorted(twice) == sorted(doubtful), f"exactly the {len(doubtful)} calls in doubt were made twice")
    demo.claim(len(once) + len(twice) == len(made), "no call was made more often")

    print("\n--- It is replayed, unchanged ---")
    code = demo.run("replay", run)
    same = demo.ask("show", "last")
    demo.claim(
        code == 0 and demo.counts()["total"] == after["total"], "nothing was executed: the server saw no request"
    )
    demo.claim(same["result"] == demo.ask("show", run)["result"], "the result is the same")

    print("\n--- The last prompt is edited, and the run is replayed ---")
    file = demo.folder / "research_writer.py"
    source = file.read_text(encoding="utf-8")
    assert LAST_PROMPT in source
    file.write_text(source.replace(LAST_PROMPT, EDITED_PROMPT), encoding="utf-8")
    print(f"  - {LAST_PROMPT}\n  + {EDITED_PROMPT}")
    code = demo.run("replay", run)
    edited = demo.ask("show", "last")
    executed = [b["key"] for b in edited["boundaries"] if b["state"] == "done" and b["kind"] != "log"]
    more = demo.counts()["total"] - after["total"]
    demo.claim(code == 0 and executed == ["final"], f"only what depends on it ran: {', '.join(executed) or 'nothing'}")
    demo.claim(more == 1, f"the server saw {more} more request")

    print("\n--- The log is verified ---")
    demo.claim(demo.run("verify") == 0, "every event is as it was written")
    demo.run("runs")


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kitaru-demo-") as name:
        folder = Path(name)
        shutil.copy(HERE / "research_writer.py", folder)
        shutil.copytree(HERE / "data", folder / "data")
        demo = Demo(folder)
        with demo.server():
            story(demo)
            total = demo.counts()
    held = sum(holds for holds, _ in demo.facts)
    print(
        f"\n{total['total']} requests for {len(total['prompts'])} different prompts, {time.monotonic() - began:.0f} s."
    )
    print(f"{held} of {len(demo.facts)} expectations hold.")
    for holds, what in demo.facts:
        if not holds:
            print(f"  NOT {what}")
    return 1 if demo.failed else 0


if __name__ == "__main__":
    sys.exit(main())
