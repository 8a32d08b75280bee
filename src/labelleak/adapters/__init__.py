"""Ways in from elsewhere: models and update files that labelleak did not make."""
