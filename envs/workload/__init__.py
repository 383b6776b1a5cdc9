"""Request streams: one file per trace format, a generator, and closed-loop sessions."""
