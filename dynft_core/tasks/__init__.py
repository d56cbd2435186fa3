"""Every function that a worker runs: a frozen job in, a frozen outcome out."""
