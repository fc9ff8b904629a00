"""Static leaderboard site, built from results. Imports only how results are read, and therefore no torch."""
