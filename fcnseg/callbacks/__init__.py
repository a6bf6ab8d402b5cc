"""What happens around the steps of a run: a Lightning callback a file."""
