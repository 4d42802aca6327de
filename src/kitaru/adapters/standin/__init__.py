"""A stand-in model server: every provider's API on loopback, without a model, counting what it is asked.

For first steps without a key, for demonstrations of what happens when a process dies, and for tests. Needs the extra
`serve` (starlette and uvicorn), imported when a server is made.
"""

from kitaru.adapters.standin.faults import Fault, FaultKind, parse_fault
from kitaru.adapters.standin.ledger import Counts, PromptCounts, Seen
from kitaru.adapters.standin.options import Options, Rule
from kitaru.adapters.standin.server import StandInServer, app, serve

__all__ = [
    "Counts",
    "Fault",
    "FaultKind",
    "Options",
    "PromptCounts",
    "Rule",
    "Seen",
    "StandInServer",
    "app",
    "parse_fault",
    "serve",
]
