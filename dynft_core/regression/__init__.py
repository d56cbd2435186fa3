"""Bayesian ridge regression: sufficient statistics, evidence, posterior."""
