"""What a study costs, told before anything is submitted."""
