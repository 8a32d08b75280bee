"""`labelleak watch`: follow a growing file of records."""
def watch() -> None:
    """Follow."""
