"""Model registry, gate, promotion, rollouts and the follower."""
