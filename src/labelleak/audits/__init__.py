"""Audits: models attacked cell by cell, one update attacked, and the auditor's controls."""
