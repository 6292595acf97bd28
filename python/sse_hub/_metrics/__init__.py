"""What hubs measure, for monitoring systems."""
