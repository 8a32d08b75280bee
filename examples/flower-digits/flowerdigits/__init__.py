"""A federation on handwritten digits whose updates are audited on both sides."""
