"""Which attack is strongest where, under which conditions."""

from labelleak.studies.verdicts.study import STUDY

__all__ = ["STUDY"]
