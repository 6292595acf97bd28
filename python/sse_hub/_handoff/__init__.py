"""The hand-off: how a response takes its connection's socket from the server.

The reasons for which a stream stays with its server, and the line in the log about either, are in
``sse_hub._servers.stay``.
"""
