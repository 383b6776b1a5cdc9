"""Policies around policies that make up for signals that lie: one defence a file, to be nested at will."""
