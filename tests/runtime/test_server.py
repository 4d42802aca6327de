"""Runs inside a web server: killed under load, restarted, and requests that are dropped."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx

from tests.runtime.runs import PATIENCE, Script, ran, until

APP = """
import asyncio, contextlib, os, socket, sys
import uvicorn
from fastapi import FastAPI
import kitaru
from kitaru import checkpoint, flow

@checkpoint
async def work(name: str, number: int) -> int:
    with open("ran.txt", "a") as file:
        file.write(f"{name}:{number}\\n")
    while number == 1 and not os.path.exists("go"):
        await asyncio.sleep(0.02)
    return number

@flow
async def job(name: str) -> str:
    total = 0
    for number in range(3):
        total += await work(name, number)
    return f"{name}={total}"

@contextlib.asynccontextmanager
async def lifespan(app):
    async with kitaru.Runtime() as app.state.runtime:
        yield

app = FastAPI(lifespan=lifespan)

@app.post("/jobs/{name}")
async def run(name: str):
    handle = await app.state.runtime.start(job.options(run_id=name), name)
    return {"result": await handle.result()}

@app.get("/runs")
async def runs():
    rows = await app.state.runtime.runs(limit=None)
    return {row.id: row.status for row in rows}

if __name__ == "__main__":
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen(512)
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    async def main():
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        print("up", flush=True)
        await serving
    asyncio.run(main())
"""

RUNS = 100


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def statuses(client: httpx.AsyncClient) -> dict[str, str]:
    found: dict[str, str] = (await client.get("/runs")).json()
    return found


async def all_completed(client: httpx.AsyncClient) -> bool:
    return set((await statuses(client)).values()) == {"completed"}


async def test_a_hundred_runs_in_flight_outlive_a_kill_of_their_server(tmp_path: Path) -> None:
    port = free_port()
    limits = httpx.Limits(max_connections=RUNS + 10)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, limits=limits) as client:
        with Script(tmp_path, APP, str(port)) as first:
            await asyncio.to_thread(first.until, "up")
            requests = [asyncio.create_task(client.post(f"/jobs/job{number}")) for number in range(RUNS)]

            async def all_in_flight() -> bool:
                return sum(line.endswith(":1") for line in ran(tmp_path / "ran.txt")) == RUNS

            await until(all_in_flight)
            first.kill()
            await asyncio.gather(*requests, return_exceptions=True)
        (tmp_path / "go").touch()
        with Script(tmp_path, APP, str(port)) as second:
            await asyncio.to_thread(second.until, "up")
            # Nobody asks for the runs again: the restarted server goes on with them by itself.
            await until(lambda: all_completed(client))
            assert len(await statuses(client)) == RUNS
            answers = await asyncio.gather(*(client.post(f"/jobs/job{number}") for number in range(RUNS)))
            assert [answer.json()["result"] for answer in answers] == [f"job{number}=3" for number in range(RUNS)]
    lines = list(ran(tmp_path / "ran.txt"))
    assert sum(line.endswith(":0") for line in lines) == RUNS
    assert sum(line.endswith(":1") for line in lines) == 2 * RUNS
    assert sum(line.endswith(":2") for line in lines) == RUNS


async def test_a_dropped_request_cancels_no_run(tmp_path: Path) -> None:
    port = free_port()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
        with Script(tmp_path, APP, str(port)) as server:
            await asyncio.to_thread(server.until, "up")
            requests = [asyncio.create_task(client.post(f"/jobs/job{number}")) for number in range(10)]

            async def some_ran() -> bool:
                return bool(ran(tmp_path / "ran.txt"))

            await until(some_ran)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
            (tmp_path / "go").touch()
            await until(lambda: all_completed(client))
