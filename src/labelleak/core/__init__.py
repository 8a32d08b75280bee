"""Core: updates, observations, label counts, scores, and what attacks and defenses are."""
