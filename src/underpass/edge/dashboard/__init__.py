"""Pages for people: an account's tunnels, tokens and requests in a browser, and logging in."""
