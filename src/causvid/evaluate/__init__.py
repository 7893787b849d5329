"""Measures and reports: how well a video follows its prompt, how fast it is made, and the card that states both."""
