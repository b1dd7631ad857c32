"""One network, loss, degradation, quality metric and optimizer for Sharpline."""
