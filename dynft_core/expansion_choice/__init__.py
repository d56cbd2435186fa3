"""Which orders and cutoffs the labels support."""
