"""A rule as text: for people, and in the languages of routers."""
