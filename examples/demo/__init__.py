"""The demo: one page that shows what Server-Sent Events are for. Start it with `make demo`."""
