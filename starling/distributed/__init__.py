"""What of a run is done by other processes."""
