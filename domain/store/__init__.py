"""The one room for SQL: rows and dataclasses meet here and only here; it must never decide anything."""
