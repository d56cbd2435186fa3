"""Campaigns: configuration, engine, command line, display and report."""
