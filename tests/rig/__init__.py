"""What tests of the sans-I/O core share: a loop turned by hand, transports in memory, raw peers."""
