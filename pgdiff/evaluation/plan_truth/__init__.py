"""Executability of plans: wall cuts, missed way-points, rewards and likelihoods."""
