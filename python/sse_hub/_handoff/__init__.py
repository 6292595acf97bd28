"""The hand-off: a server offers a connection, a response takes its socket."""
