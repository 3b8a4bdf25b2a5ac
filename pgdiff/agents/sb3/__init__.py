"""Agents of Stable-Baselines3 and sb3-contrib, loaded without running code from their files."""
