"""A campaign and its user: commands, views, driver, run folder, campaign, campaign file, user files."""
