"""Files: what jobs made, what they start from, and links to them."""
