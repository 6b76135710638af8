"""Pages for people. They ask the API's own routes, and must never know a way around them."""
