"""Tune: the cheapest defense that meets a target, searched by measurement."""
