"""Data, models, clients and rounds with which updates are made to order."""
