"""The robustness report as one page: a module per tab, and what they share."""
