"""One process that works on one task at a time: claim, stage, convert, run, check, convert back, publish, settle."""
