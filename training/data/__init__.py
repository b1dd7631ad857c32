"""Where training pictures come from and how they become pairs."""
