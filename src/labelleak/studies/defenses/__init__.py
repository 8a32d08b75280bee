"""Every defense in one table: leak, accuracy, bytes and time."""
