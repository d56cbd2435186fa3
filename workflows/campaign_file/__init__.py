"""The campaign file: its keys, its errors, and the campaigns that come with dynft."""
