"""The servers that are compared, each written as its users would write it.

All speak the same four requests: `GET /events` (an endless stream), `POST /publish` (publish events, answer
when done), `GET /count` (how many streams are open), `GET /ping` (an unrelated endpoint); those with finite
streams instead `GET /tokens`.
"""
