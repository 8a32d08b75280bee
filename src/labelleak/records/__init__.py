"""Records: what is written down of an audit, and what is read off it, without torch."""
