"""Contextual bandits: they learn from each request's own outcome while they route."""
