"""An event loop in a thread, so that sync code can start runs and wait for them."""

from __future__ import annotations

import asyncio
import threading

from kitaru.runtime.log import log


class BackgroundLoop:
    """An event loop in a thread, for sync code."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="kitaru background loop", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            try:
                self.loop.run_forever()
            except BaseException as error:
                # SystemExit or KeyboardInterrupt out of a callback: it ends this program's loop nowhere but here, and
                # whoever waits for a run would wait for ever.
                log().error("background_loop.interrupted", exc_info=error)
        self.loop.close()

    def stop(self) -> None:
        """Stop the loop; its thread ends."""
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
