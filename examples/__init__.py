"""Programs that show sse_hub at work."""
