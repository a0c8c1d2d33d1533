"""Stream items → packets → pcapng; any capture → stream items → HTTP exchanges → HAR, lines, statistics.

``packets`` is the way in from a recording, ``reassembly`` from a file; ``http`` reads exchanges, ``har`` writes them.
"""
