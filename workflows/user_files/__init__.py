"""Reading and checking what users give, and where they write."""
