"""Decides what goes live."""
