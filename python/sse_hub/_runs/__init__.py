"""What drives runs: their generators, tasks and registry, and the responses that follow them."""
