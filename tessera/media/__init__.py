"""Pictures, sounds and clips as bytes: what they are, kept without anything else in them, in another format."""
