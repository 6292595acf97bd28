"""Server-Sent Events for FastAPI and Starlette with a Rust core."""
