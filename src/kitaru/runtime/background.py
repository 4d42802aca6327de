"""An event loop in a thread, so that sync code can start runs and wait for them."""

from __future__ import annotations

import asyncio
import threading


class BackgroundLoop:
    """An event loop in a thread, for sync code."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="kitaru background loop", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def stop(self) -> None:
        """Stop the loop; its thread ends."""
        self.loop.call_soon_threadsafe(self.loop.stop)
