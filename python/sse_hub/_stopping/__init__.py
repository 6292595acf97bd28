"""How streams end when their server stops, and when the program says so (``AppStatus``).

::

    stoppable    Stoppable: the one protocol of everything that can be ended
    registry     the one registry: what runs, on which loop, under which server; the switch of AppStatus
    server_stop  ServerStop: ends one server's streams, then aborts what remains
    serving      registers a stream that its server carries
    handed       registers the streams that a server handed off
    work         registers what is no stream: runs
    app_status   AppStatus, sse-starlette's switch

Knowledge of each server's internals is in ``sse_hub._servers``.
"""
