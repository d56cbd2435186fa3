"""Running a campaign: executors, event loop, sites, time limits, signals."""
