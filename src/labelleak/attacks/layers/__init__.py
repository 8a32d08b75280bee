"""Attacks that read the layers below the head as well."""
