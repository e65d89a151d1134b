"""The studio: a local web page over run folders. Watch, compare, look inside, and play in the dream.

::

    browser ── HTTP, WebSocket ──▶ guard ──▶ routes (one module a page)
                                               │
                              catalogue ◀──────┤ which runs there are, read from their folders
                                models ◀───────┤ agents at a checkpoint, opened once and shared
                                engine ◀───────┘ the one thread in which models step

It reads runs and writes nothing into them but films that a player saves, into ``dreams/``.
"""
