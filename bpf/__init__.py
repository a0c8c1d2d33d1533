"""The kernel boundary: C programs, and the only Python that imports bcc.

events.h is the one definition of what crosses the ring buffer; abi.py derives Python's view from it.
"""
