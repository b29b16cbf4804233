"""A hub of models on this machine, and the scripts run against it."""
