"""What lies on disk: closed segments, the journal, structures. Every file is complete or absent."""
