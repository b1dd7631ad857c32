"""The whole loop on one machine: start, run once or stay up, stop."""
