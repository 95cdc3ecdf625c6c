"""What comes of a screen: rows, their store, what they say together, the table."""
