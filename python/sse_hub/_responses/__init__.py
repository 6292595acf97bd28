"""The responses that stream to one client."""
