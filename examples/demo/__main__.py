"""`python -m examples.demo`: serve the demo with uvicorn and print its address."""

import errno
import socket
import sys
from contextlib import suppress

import uvicorn

from .app import app, settings


def listen(host: str, port: int) -> socket.socket:
    """Bind `port`, or a free port when it is taken (and say so)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        print(f"Port {port} is in use, taking another. (PORT=… chooses one.)", flush=True)
        listener.bind((host, 0))
    # From here on a browser can connect; it is served as soon as the app has started.
    listener.listen(512)
    return listener


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    if sys.argv[1:]:
        raise SystemExit(f"{sys.argv[1:]}: the demo reads variables, as in PORT=8080 make demo")
    listener = listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"sse-hub demo: http://{host}:{listener.getsockname()[1]}/   (Ctrl-C stops it)", flush=True)
    # On the command line: uvicorn examples.demo.app:app
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with suppress(KeyboardInterrupt):  # raised again by uvicorn once it has stopped
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
