"""What is made, one folder per stage, in the order in which data flows."""
