package broker

// openFileLimit is how many files this process may have open: any number.
func openFileLimit() (int, error) { return 0, nil }
