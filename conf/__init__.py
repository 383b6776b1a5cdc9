"""Hydra's configuration groups; they mirror the folders."""
