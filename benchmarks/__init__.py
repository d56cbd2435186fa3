"""Measurements beside the tests: one command each, no time limits, but they fail when results disagree."""
