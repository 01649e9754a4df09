"""Arms, their stages and teachers, and whether all of it can be done."""
