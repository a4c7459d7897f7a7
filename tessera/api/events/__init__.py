"""What happens to jobs, as streams of server-sent events."""
