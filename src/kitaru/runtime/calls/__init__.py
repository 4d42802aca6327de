"""Model calls: what is asked, of whom, and what comes of it."""
