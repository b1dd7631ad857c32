"""What every package needs: errors, console output, environment variables, files.

Imports nothing of the project.
"""
