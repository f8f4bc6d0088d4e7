"""How a run runs, stops, resumes, is sharded and watched."""
