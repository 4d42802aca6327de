"""The `kitaru` command. It talks to the runtime only."""
