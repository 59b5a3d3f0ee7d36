"""A queue for teams: jobs wait at a service of our own until their team's turn, then become Ray jobs."""
