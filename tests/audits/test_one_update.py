"""One update under attack, in both forms, by Python and by the command."""
