"""What an outcome depends on in the project's source."""
