"""The hand-off: how a response takes its connection's socket from the server."""
