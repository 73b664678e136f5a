"""The analyses of a run by name, and the jobs that compute them over seeds."""
