"""Shared by every package: errors, console output, environment variables, files.

Imports nothing else of the project.
"""
