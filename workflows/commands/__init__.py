"""What a user types: one file a command, which parses, calls and prints."""
