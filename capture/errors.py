"""The errors that a user can meet, each a sentence that names the thing and the remedy."""

from __future__ import annotations


class PlaintapError(Exception):
    """Base of every error that plaintap raises on purpose; the command line prints it and exits with ``exit_code``."""

    exit_code = 1


class UsageError(PlaintapError):
    """What was asked for cannot be meant: exit code 2."""

    exit_code = 2


class CaptureFormatError(PlaintapError):
    """A file is not a capture, or is malformed beyond reading."""
