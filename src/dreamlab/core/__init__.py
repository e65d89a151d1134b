"""Ideas that every room shares: rows and time, protocols, configuration, sampling, imagination."""
