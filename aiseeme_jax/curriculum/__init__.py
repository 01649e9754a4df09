"""Arms with their stages and teachers, the plan of a run, and how its pieces of work are done."""
