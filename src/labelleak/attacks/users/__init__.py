"""What a server learns of a user over rounds: its label distribution."""
