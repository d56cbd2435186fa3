"""The files of one campaign: lock, identity, snapshot, requests."""
