"""Data sets: built in, from local files and folders, and from the hub."""
