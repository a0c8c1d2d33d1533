"""The command line's commands, a module each: parse, wire, report. Nothing is decided here."""
