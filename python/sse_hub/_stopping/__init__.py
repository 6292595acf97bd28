"""How streams end when their server stops, and when the program says so (``AppStatus``)."""
