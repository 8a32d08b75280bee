"""The shadow attack: a network fitted to updates that the attacker makes itself."""
