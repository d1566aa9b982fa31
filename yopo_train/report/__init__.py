"""What people look at: ``report.html`` of a run, and a plan in the terminal. matplotlib is loaded by `build` only."""
