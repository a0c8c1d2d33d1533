"""Stream items to HTTP exchanges (RFC 9110), sans-IO.

``exchanges(items)`` is the way in for a capture file, ``ExchangeReader`` for a live recording. Both give
``Exchange`` values, which know no HAR; ``exporters.har`` knows no HTTP framing.
"""

from exporters.http.layers import Limits, Notes
from exporters.http.messages import Exchange
from exporters.http.reader import ExchangeReader, exchanges

__all__ = ["Exchange", "ExchangeReader", "Limits", "Notes", "exchanges"]
