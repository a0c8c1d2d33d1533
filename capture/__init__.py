"""What to hook; kernel events → connections → byte streams; the command line."""
