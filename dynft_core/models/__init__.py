"""Families of models: what a campaign needs of one, and where each is found."""
