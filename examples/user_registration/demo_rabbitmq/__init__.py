"""Run the three processes on a broker, register people, and let processes die meanwhile."""
