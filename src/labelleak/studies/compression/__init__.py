"""What compression leaves of a label attack over rounds."""
