"""The kernel boundary: C programs, and the only Python that imports bcc.

``compiler`` compiles, once (``compiled``); ``program`` makes the maps (``maps``), loads, and ``probes`` attaches.
events.h is the one definition of what crosses the ring buffer; abi.py derives Python's view from it.
"""
