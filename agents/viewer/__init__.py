"""An evaluation's episodes to look at: one HTML page that plays a fleet, and what its router thought."""
