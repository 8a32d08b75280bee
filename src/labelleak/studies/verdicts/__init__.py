"""How far each attack's own assumptions carry: verdicts."""
